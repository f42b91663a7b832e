"""A bounded set of shapes and options through every kernel of the loss and of mining: what compute-sanitizer watches.

    compute-sanitizer --tool memcheck python tools/gpu_exercise.py --device cuda

Values are checked by the tests; here a result must only be finite.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import aoq_ext
from aoq_ext import functional
from aoq_ext.mining import fused
from aoq_ext.mining.keys import no_keys
from aoq_ext.mining.side import Ragged, Side
from aoq_ext.mining.tile import mine_tile

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
ONLINE = ("hardest", "semihard", "all")
SIMILARITIES = ("dot", "cosine", "order")
COUNT, WIDTH = 70, 24  # more than a tile of 64; a last piece of the width
# One batch for each tile size, none of them whole tiles: (B, D).
BATCHES = ((1, 8), (33, 40), (600, 40), (1500, 24))
# For mining: one tile size each; the second has lists whose limits are guessed, and blocks of anchors: (N, M, D).
MINED = ((70, 90, 21), (600, 1500, 24))
ODD = 21  # a width whose rows are copied into padded ones


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where (default: cuda)")
    device = torch.device(parser.parse_args(arguments).device)
    for dtype, online, similarity in itertools.product(DTYPES, ONLINE, SIMILARITIES):
        step(draw(COUNT, WIDTH, dtype, device), online=online, similarity=similarity, group_ids=groups(COUNT, device))
    for dtype, (count, width) in itertools.product(DTYPES, BATCHES):
        step(draw(count, width, dtype, device))
    for dtype in DTYPES:
        step(draw(COUNT, ODD, dtype, device))
        step(draw(COUNT, WIDTH, dtype, device, candidates=3), reduction="none")
        score_steps(draw(COUNT, WIDTH, dtype, device))
        image, text = draw(COUNT, WIDTH, dtype, device)[:2]
        finite(aoq_ext.hardest_negatives(image, text).text_score)
    for similarity in SIMILARITIES[:2]:
        hubs = draw(1500, WIDTH, torch.float32, device)
        for chosen, chooser in ((1, 0), (0, 1)):  # a text that every image chooses, an image that every text does
            hubs[chooser][:, chosen], hubs[chosen][7, chosen] = 1, 8
        step(hubs, similarity=similarity)
    for dtype in DTYPES:
        mining_steps(dtype, device)
    if device.type == "cuda":
        tf32_steps(device)
    print(f"every result on {device} is finite")


def draw(count: int, width: int, dtype: torch.dtype, device: torch.device, candidates: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(count + width)
    offline = (count, candidates, width) if candidates else (count, width)
    rows = [torch.randn(shape, generator=generator) for shape in [(count, width)] * 2 + [offline] * 4]
    return [torch.nn.functional.normalize(row, dim=-1).to(device, dtype) for row in rows]


def groups(count: int, device: torch.device) -> Tensor:  # (B,)
    return torch.arange(count, device=device) // 3


def step(operands: list[Tensor], **options: Any) -> None:
    leaves = [operand.detach().requires_grad_() for operand in operands]
    loss = functional.adaptive_quintuplet_loss(*leaves, **options)
    loss.sum().backward()
    finite(loss, *(leaf.grad for leaf in leaves))


def score_steps(operands: list[Tensor]) -> None:
    image, text, hard_image, hard_text, hard_text_image, hard_image_text = operands
    pairs = ((image, hard_text), (hard_image, text), (hard_image, hard_text), (hard_text_image, hard_image_text))
    scores = [image @ text.T, *((left * right).sum(dim=1) for left, right in pairs)]
    for online in ONLINE:
        leaves = [score.detach().requires_grad_() for score in scores]
        loss = functional.adaptive_quintuplet_score_loss(*leaves, online=online)
        loss.backward()
        finite(loss, *(leaf.grad for leaf in leaves))


def mining_steps(dtype: torch.dtype, device: torch.device) -> None:
    for count, others, width in MINED:
        keys = no_keys(count, 7, device), no_keys(others, 5, device)
        anchors, candidates = mined_side(count, width, dtype, device), mined_side(others, width, dtype, device)
        filled(*mine_tile(anchors, candidates, *keys))
        filled(mine_tile(anchors, candidates, keys[0])[0])
        ties = Side(candidates.rows[:1].expand(others, width).contiguous())  # hits overflow: lists are mined again
        filled(*mine_tile(Side(anchors.rows), ties, *keys))
        if dtype == torch.float32:
            filled(*fused.mine_tile(anchors, candidates, *keys, arithmetic=1, panel=100))


def mined_side(count: int, width: int, dtype: torch.dtype, device: torch.device) -> Side:
    rows = draw(count, width, dtype, device)[0]
    ids = torch.arange(count, device=device)
    labels = Ragged(ids // 4, torch.arange(count + 1, device=device))
    return Side(rows, ids=ids // 3, labels=labels, caps=torch.full((count,), 0.9, device=device))


def filled(*lists: Tensor | None) -> None:
    for found in lists:
        if found is None or (found[:, 0] == no_keys(1, 1, found.device)[0, 0]).any():
            raise SystemExit("gpu_exercise: a list is missing or empty")


def tf32_steps(device: torch.device) -> None:
    setting = torch.backends.cuda.matmul.fp32_precision  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # type: ignore[attr-defined]
    try:
        for count, width in BATCHES:
            step(draw(count, width, torch.float32, device))
        step(draw(COUNT, WIDTH, torch.float32, device), online="all")
    finally:
        torch.backends.cuda.matmul.fp32_precision = setting  # type: ignore[attr-defined]


def finite(*results: Tensor | None) -> None:
    for result in results:
        if result is None or not result.isfinite().all():
            raise SystemExit(f"gpu_exercise: a result is missing or not finite: {result}")


if __name__ == "__main__":
    main()
