"""The text encoder for short captions."""

from __future__ import annotations

import torch

from aoq_ext.encoders import GRUEncoder


def test_short_captions_among_long_ones_are_read_as_alone() -> None:
    """Where most of a batch is padding it is packed; what is read is the same."""
    torch.manual_seed(0)
    encoder = GRUEncoder(20, dim=8, word_dim=6, hidden=10, word_dropout=0.0)
    lengths = torch.tensor([9, 1, 2, 1, 3])
    tokens = torch.randint(4, 20, (5, 9)) * (torch.arange(9) < lengths[:, None])
    together = encoder(tokens, lengths)
    alone = [encoder(row[None, :length], length[None]) for row, length in zip(tokens, lengths, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))
    gradients = [torch.autograd.grad(of[:, 0].sum(), list(encoder.parameters())) for of in (together, torch.cat(alone))]
    torch.testing.assert_close(*gradients)
