"""Text encoders of the papers' models: a recurrent network read as words, or as one vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def last_states(states: Tensor, lengths: Tensor) -> Tensor:
    """states: (B, L, D), of a network that reads forwards; lengths: (B,) -> (B, D): those after the last valid input"""
    return states[torch.arange(len(states), device=states.device), lengths - 1]


class _WordVectors(nn.Embedding):
    """Initialised as in the released code of all these models."""

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, -0.1, 0.1)


class GRUTextEncoder(nn.Module):
    """The text side of VSE++ and VSRN: the state of a GRU after a caption's last word, L2-normalised.

    Args:
        vocabulary_size: the number of tokens.
        dim: D, the size of the state, which is the embedding.
        word_dim: the size of a word vector.

    Example:
        >>> GRUTextEncoder(10, dim=8)(torch.tensor([[1, 5, 2, 0]]), torch.tensor([3])).shape
        torch.Size([1, 8])
    """

    def __init__(self, vocabulary_size: int, dim: int = 1024, word_dim: int = 300) -> None:
        super().__init__()
        self.words = _WordVectors(vocabulary_size, word_dim)
        self.gru = nn.GRU(word_dim, dim, batch_first=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: (B, L) integers; lengths: (B,) integers from 1 to L -> (B, D)"""
        states, _ = self.gru(self.words(tokens))  # (B, L, D); what comes after a caption's end is never looked at
        return F.normalize(last_states(states, lengths), dim=-1)


class BiGRUWordEncoder(nn.Module):
    """The text side of SCAN and BFAN: for every word the mean of a GRU's two directions, L2-normalised.

    SCAN section 3.2: h_j = (h→_j + h←_j) / 2. Where a caption has ended the features are zeros.

    Args:
        vocabulary_size: the number of tokens.
        dim: D, the size of a word's feature.
        word_dim: the size of a word vector.
        bidirectional: off, each word knows only those before it.

    Example:
        >>> BiGRUWordEncoder(10, dim=8)(torch.tensor([[1, 5, 2, 0]]), torch.tensor([3])).shape
        torch.Size([1, 4, 8])
    """

    def __init__(self, vocabulary_size: int, dim: int = 1024, word_dim: int = 300, bidirectional: bool = True) -> None:
        super().__init__()
        self.words = _WordVectors(vocabulary_size, word_dim)
        self.gru = nn.GRU(word_dim, dim, batch_first=True, bidirectional=bidirectional)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens: (B, L) integers; lengths: (B,) integers from 1 to L -> (B, L, D)"""
        # Packed, because the backward direction must start at each caption's own end.
        packed = pack_padded_sequence(self.words(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])
        if self.gru.bidirectional:
            states = states.unflatten(-1, (2, -1)).mean(dim=-2)
        return F.normalize(states, dim=-1)
