"""Random cases of the loss, every option at once, against the reference.

    python -m tests.fuzz --cases 20000 [--seed N] [--seconds S] [--device cuda]

Case n is a pure function of n, so the seed that a failure prints reproduces it: ``--seed N --cases 1``.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from tests.losses import DTYPES, EMBEDDINGS, OBJECTIVES, ONLINE, REDUCTIONS, SIMILARITIES, run
from tests.numerics import check_forward, check_gradients, error

# Around the width of a vector, of a block of columns, and of nothing.
COUNTS = (0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 100, 255, 256, 257)
WIDTHS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100)
SPECIALS = (0.0, -0.0, math.nan, math.inf, -math.inf, 1e30, -1e-30)


def make_case(seed: int, device: torch.device) -> tuple[list[Tensor], Tensor | None, dict[str, Any], str]:
    """Operands, group ids, options, and the kind of the values: random, grid or special."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    count, width = rng.choice(COUNTS), rng.choice(WIDTHS)
    dtype = rng.choice((torch.float64, *DTYPES))
    candidates = rng.choice((0, 0, 0, 1, 2, 5))
    shape = (count, candidates, width) if candidates else (count, width)
    rows = [torch.randn(s, dtype=torch.float64, generator=generator) for s in [(count, width)] * 2 + [shape] * 4]
    rows[1] = rows[1] + rng.choice((0, 1, 3)) * rows[0]
    rows = [torch.nn.functional.normalize(row, dim=-1) for row in rows]
    similarity, kind = rng.choice(SIMILARITIES), "random"
    # Ties: rows that repeat, on a grid where sums are exact. Not for cosine, whose lengths round: there, equal scores
    # come out one rounding apart, and either is right.
    if count > 2 and similarity != "cosine" and rng.random() < 0.5:
        rows[rng.randrange(2)][rng.randrange(count)] = rows[0][rng.randrange(count)]
        rows = [torch.round(row * 4) / 4 for row in rows]
        kind = "grid"
    if count and rng.random() < 0.15:
        kind = "special"
        for _ in range(rng.randint(1, 3)):
            flat = rows[rng.randrange(6)].view(-1)
            flat[rng.randrange(flat.numel())] = rng.choice(SPECIALS)
    rows = [rearrange(row.to(dtype), rng).to(device) for row in rows]
    groups = None
    if rng.random() < 0.5:
        groups = torch.randint(0, rng.choice((1, 2, max(count // 2, 1), 10**9)), (count,), generator=generator)
        groups = groups.to(device)
    options = {
        "objective": rng.choice(OBJECTIVES),
        "online": rng.choice(ONLINE),
        "similarity": similarity,
        "reduction": rng.choice(REDUCTIONS),
        "detach_weight": rng.random() < 0.3,
        "clamp_weight": rng.random() < 0.3,
        "margin_online": rng.choice((0.2, 0.0, 0.25, -0.1, 1.0)),
        "margin_offline": rng.choice((0.0, 0.1, -0.25)),
        "alpha": rng.choice((0.3, 0.05, 2.0)),
        "beta": rng.choice((1.5, 0.5, 0.0)),
    }
    return rows, groups, options, kind


def rearrange(rows: Tensor, rng: random.Random) -> Tensor:
    """The same values under other strides."""
    layout = rng.randrange(4)
    if layout == 1:
        return rows.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == 2:
        return torch.nn.functional.pad(rows, (1, 2))[..., 1:-2]
    if layout == 3:
        return torch.cat([rows.new_zeros(1), rows.flatten()])[1:].view(rows.shape)
    return rows


def check_case(seed: int, device: torch.device) -> str:
    """'' or what is wrong."""
    operands, groups, options, kind = make_case(seed, device)
    if kind == "grid" and options["similarity"] == "dot":  # exact in every dtype, see numerics.py
        try:
            check_forward(EMBEDDINGS, operands, groups, exact=True, **options)
            check_gradients(EMBEDDINGS, operands, groups, **options)
        except AssertionError as wrong:
            return str(wrong)
        return ""
    ours = run(EMBEDDINGS.fused, operands, groups, **options)
    theirs = run(EMBEDDINGS.reference, operands, groups, **options)
    names = ("loss", "image", "text", "hard_image", "hard_text", "hard_text_image", "hard_image_text")
    if kind == "special":  # gradients of infinities are not defined; the loss is
        same = torch.allclose(ours[0].double(), theirs[0].double(), rtol=1e-2, atol=1e-2, equal_nan=True)
        return "" if same else "loss with special values differs"
    if operands[0].dtype == torch.float64:
        for name, result, truth in zip(names, ours, theirs):
            if not torch.allclose(result, truth, rtol=1e-9, atol=1e-9):
                return f"{name}: off by {(result - truth).abs().max():.3g}"
        return ""
    # A score that rounds to the other side of a hinge changes a gradient by a whole row, in either form, so here low
    # precision is judged by the loss.
    with torch.no_grad():
        wide_groups = None if groups is None else groups.cpu()
        truth = EMBEDDINGS.reference(*(row.cpu().double() for row in operands), wide_groups, **options)
    magnitude = max(truth.abs().max().item() if truth.numel() else 1.0, 1e-3)
    terms = operands[0].shape[0] if options["online"] == "all" else 1
    allowed = 2 * error(theirs[0], truth) + 4e-6 + 1e-6 * terms / magnitude
    off = error(ours[0], truth)
    return "" if off <= allowed else f"loss: error {off:.3g}, allowed {allowed:.3g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so long")
    parser.add_argument("--device", type=torch.device, default="cpu")
    given = parser.parse_args()
    start, tally, failures = time.monotonic(), Counter[str](), 0
    for seed in range(given.seed, given.seed + given.cases):
        if time.monotonic() - start > given.seconds:
            break
        if wrong := check_case(seed, given.device):
            failures += 1
            print(f"seed {seed}: {wrong}\n  {make_case(seed, given.device)[2]}", flush=True)
        tally["cases"] += 1
    took = time.monotonic() - start
    print(f"{tally['cases']} cases from seed {given.seed} on {given.device}: {failures} mismatches, {took:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
