"""What mining takes beyond its arguments and its result, in a process of its own, against the limit it was given."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
from aoq_ext import mine_hard_negatives

rows, columns, width, k, k_reverse, limit, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
dtype = torch.bfloat16 if width > 100 else torch.float32
anchors, candidates = (torch.randn(count, width).to(dtype) for count in (rows, columns))
direction = {"direction": "both", "k_reverse": k_reverse} if k_reverse else {}
mine_hard_negatives(anchors[:200], candidates[:500], 5, memory_limit=2 << 30, **direction)  # what a first call loads

def peak(reset=False):
    if reset:
        open("/proc/self/clear_refs", "w").write("5")  # the peak becomes what is resident now
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) << 10

before = peak(reset=True)
result = mine_hard_negatives(anchors, candidates, k, memory_limit=limit, **direction)
growth = peak() - before
parts = [result, *([result.reverse] if result.reverse else [])]
print(growth, sum(part.indices.nbytes + part.scores.nbytes for part in parts))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("rows", "columns", "width", "k", "k_reverse", "limit"),
    [
        (6000, 60_000, 64, 100, 0, 200 << 20),
        (6000, 60_000, 64, 100, 60, 300 << 20),
        (3000, 60_000, 256, 50, 40, 250 << 20),
        (4000, 20_000, 16, 1000, 500, 600 << 20),
        (200_000, 2000, 8, 100, 0, 250 << 20),  # lists larger than the limit
        (500, 600_000, 8, 20, 10, 700 << 20),  # many short lists of candidates
    ],
)
def test_memory_stays_under_the_limit(rows, columns, width, k, k_reverse, limit, threads):
    numbers = map(str, (rows, columns, width, k, k_reverse, limit, threads))
    run = subprocess.run([sys.executable, "-c", PROGRAM, *numbers], capture_output=True, text=True, check=True)
    growth, result = map(int, run.stdout.split())
    assert growth < limit + result
