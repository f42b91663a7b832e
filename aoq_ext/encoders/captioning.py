"""VSRN's second loss: the caption must be writable from the image's regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aoq_ext.encoders.padding import clear, mask_of, padding_mask
from aoq_ext.encoders.words import last_states


class CaptioningLoss(nn.Module):
    """How surprising captions are to a decoder that attends to the regions: −Σ_t log p(y_t | y_<t, V*), batch mean.

    VSRN (Li et al., ICCV 2019, arXiv 1909.02701), equation 9. As in the released code, the regions go through a map
    and a GRU first, whose last state starts the decoder; the decoder is a GRU that reads the word before (teacher
    forcing) and the regions weighted by additive attention, wᵀ tanh(W [h; r] + b). There every caption is padded to
    60 words; here nothing is computed of padding. The released loss has one term more of each caption that is shorter
    than that: its mask goes on to the first padding after the end, which it wants guessed as well. Here the end is the
    last word. Parameters are initialised as in the released code.

    Args:
        vocabulary_size: the number of tokens.
        region_dim: D, the size of a region's features.
        hidden: of the recurrent networks and the attention.
        word_dim: the size of a word vector.
        dropout: of the inputs of both recurrent networks.

    Example:
        >>> loss = CaptioningLoss(10, region_dim=8, hidden=4, word_dim=4)
        >>> loss(torch.randn(2, 36, 8), torch.tensor([[1, 5, 2, 0], [1, 6, 7, 2]]), torch.tensor([3, 4])).shape
        torch.Size([])
    """

    def __init__(
        self,
        vocabulary_size: int,
        region_dim: int = 1024,
        hidden: int = 512,
        word_dim: int = 300,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(region_dim, hidden)
        nn.init.xavier_normal_(self.project.weight)
        self.encoder = nn.GRU(hidden, hidden, batch_first=True)
        self.words = nn.Embedding(vocabulary_size, word_dim)
        self.from_region = nn.Linear(hidden, hidden)
        self.from_state = nn.Linear(hidden, hidden, bias=False)
        # [from_state, from_region] is the W of the class's docstring, a linear map of 2H inputs.
        bound = (2 * hidden) ** -0.5
        for parameter in (self.from_region.weight, self.from_region.bias, self.from_state.weight):
            nn.init.uniform_(parameter, -bound, bound)
        self.attention = nn.Linear(hidden, 1, bias=False)
        self.decoder = nn.GRUCell(hidden + word_dim, hidden)
        self.out = nn.Linear(hidden, vocabulary_size)
        nn.init.xavier_normal_(self.out.weight)

    def forward(
        self,
        regions: Tensor,  # (B, R, D), after the graph convolutions
        tokens: Tensor,  # (B, L) integers, each caption with its start and end
        lengths: Tensor,  # (B,) integers from 2 to L
        region_lengths: Tensor | None = None,  # (B,); None: every image has R regions
    ) -> Tensor:  # ()
        mask = padding_mask(regions, region_lengths)
        encoded, last = self.encoder(self.dropout(self.project(clear(regions, mask))))  # (B, R, H), (1, B, H)
        state = last[0] if region_lengths is None else last_states(encoded, region_lengths)
        written = mask_of(lengths - 1, tokens.shape[1] - 1)  # (B, L - 1): words that have to be guessed
        states = torch.stack(self._states(encoded, mask, state, self.words(tokens[:, :-1])), dim=1)  # (B, L - 1, H)
        logits = self.out(states[written])  # (words, V)
        return F.cross_entropy(logits, tokens[:, 1:][written], reduction="sum") / len(tokens)

    def _states(self, encoded: Tensor, mask: Tensor | None, state: Tensor, words: Tensor) -> list[Tensor]:
        """The decoder's states after each of the words (B, L, E)."""
        keys = self.from_region(encoded)
        states = []
        for word in words.unbind(1):
            energy = self.attention(torch.tanh(keys + self.from_state(state).unsqueeze(1))).squeeze(-1)  # (B, R)
            if mask is not None:
                energy = energy.masked_fill(~mask, float("-inf"))
            context = (energy.softmax(dim=1).unsqueeze(1) @ encoded).squeeze(1)  # (B, H)
            state = self.decoder(self.dropout(torch.cat([word, context], dim=1)), state)
            states.append(state)
        return states
