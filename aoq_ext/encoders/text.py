"""A text encoder for short captions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from aoq_ext.encoders.words import last_states

UNKNOWN = 3  # the token of a word that is not in the vocabulary; those below it are no words (see `Vocabulary`)


class GRUEncoder(nn.Module):
    """Word vectors and a GRU, read off after each caption's last word: captions to L2-normalised embeddings.

    Args:
        vocabulary_size: the number of tokens, token 0 being the padding.
        dim: D, the size of an embedding.
        word_dim: the size of a word vector.
        hidden: the size of the GRU's state.
        dropout: probability of zeroing an entry of a word vector.
        word_dropout: probability of reading a training word as the unknown word, token 3. Without it that word's vector
            is never trained, and captions with new words are read through noise.

    Example:
        >>> GRUEncoder(vocabulary_size=10, dim=64)(torch.tensor([[3, 4, 0]]), torch.tensor([2])).shape
        torch.Size([1, 64])
    """

    def __init__(
        self,
        vocabulary_size: int,
        dim: int = 128,
        word_dim: int = 128,
        hidden: int = 128,
        dropout: float = 0.0,
        word_dropout: float = 0.05,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, word_dim, padding_idx=0)
        self.word_dropout = word_dropout
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(word_dim, hidden, batch_first=True)
        self.project = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: (B, L) integers, padded with 0; lengths: (B,) integers from 1 to L -> (B, D)"""
        if self.training and self.word_dropout > 0:
            forgotten = torch.rand(tokens.shape, dtype=torch.float32, device=tokens.device) < self.word_dropout
            tokens = torch.where(forgotten & (tokens > UNKNOWN), UNKNOWN, tokens)
        return F.normalize(self.project(self._read(self.dropout(self.words(tokens)), lengths)), dim=-1)

    def _read(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, word_dim) -> (B, hidden), the state after each caption's last word."""
        if words.device.type == "cpu" and 2 * int(lengths.sum()) < words.shape[0] * words.shape[1]:
            packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
            last: Tensor = self.gru(packed)[1][0]
            return last
        # Reading past a caption's end costs less than packing does, and the states there are never looked at.
        return last_states(self.gru(words)[0], lengths)
