"""Blocks of rows on the device where they are mined. What only a GPU has is in cuda/test_loss.py."""

import pytest
import torch

from aoq_ext.mining.staging import staged_blocks


class Rows:
    """A source that remembers what it was asked for."""

    def __init__(self, rows):
        self.all, self.asked = rows, []

    shape = property(lambda self: tuple(self.all.shape))
    dtype = property(lambda self: self.all.dtype)

    def rows(self, start, stop):
        self.asked.append((start, stop))
        if stop > len(self.all):
            raise OSError(f"rows {start} to {stop} cannot be read")
        return self.all[start:stop]


RANGES = [(0, 4), (4, 8), (8, 10), (2, 3), (5, 5)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_are_the_rows_of_their_ranges(dtype):
    source = Rows(torch.arange(40).reshape(10, 4).to(dtype))
    blocks = list(staged_blocks(source, RANGES, "cpu"))
    assert source.asked == RANGES
    for block, (start, stop) in zip(blocks, RANGES, strict=True):
        assert block.dtype == dtype and torch.equal(block, source.all[start:stop])


def test_nothing_is_read_before_it_is_asked_for():
    source = Rows(torch.zeros(10, 4))
    blocks = staged_blocks(source, RANGES, torch.device("cpu"))
    assert source.asked == []
    next(blocks)
    blocks.close()
    assert source.asked == RANGES[:1]


def test_no_ranges():
    assert list(staged_blocks(Rows(torch.zeros(0, 4)), [], "cpu")) == []


def test_an_error_of_the_source_is_raised():
    blocks = staged_blocks(Rows(torch.zeros(10, 4)), [(0, 4), (8, 12)], "cpu")
    next(blocks)
    with pytest.raises(OSError, match="8 to 12"):
        next(blocks)
