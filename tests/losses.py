"""What the tests of the loss share: operands, the option grid, a way to run a loss, and an oracle in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aoq_ext import functional, reference
from aoq_ext._options import LossOptions, Similarity

OBJECTIVES = ("online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet")
ONLINE = ("hardest", "semihard", "all")
SIMILARITIES = ("dot", "cosine", "order")
REDUCTIONS = ("sum", "mean", "none")
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *HALVES)


def make_operands(
    count: int,
    width: int,
    candidates: int = 0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """image, text, hard_image, hard_text, hard_text_image, hard_image_text: unit rows, not too unlike one another.

    Drawn on the CPU, so that they are the same numbers on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (count, candidates, width) if candidates else (count, width)
    shapes = [(count, width)] * 2 + [shape] * 4
    rows = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    rows[1] = rows[1] + rows[0]  # a pair scores high, as in training
    return [torch.nn.functional.normalize(row, dim=-1).to(dtype).to(device) for row in rows]


def scores_of(operands: Sequence[Tensor], similarity: str = "dot") -> list[Tensor]:
    """The operands of the score form, S and a, b, c, d, that belong to those of the embedding form."""
    image, text, hard_image, hard_text, hard_text_image, hard_image_text = operands
    kind = Similarity[similarity.upper()]
    hard_text, hard_text_image = reference._hardest_candidate(image, hard_text, hard_text_image, kind)
    hard_image, hard_image_text = reference._hardest_candidate(
        text, hard_image, hard_image_text, kind, anchor_is_text=True
    )
    pairs = ((image, hard_text), (hard_image, text), (hard_image, hard_text), (hard_text_image, hard_image_text))
    return [reference._similarity_matrix(image, text, kind), *(reference._similarity(*pair, kind) for pair in pairs)]


def run(loss: Callable[..., Tensor], operands: Sequence[Tensor], *arguments: Any, **options: Any) -> list[Tensor]:
    """The loss and the gradient by every operand (zeros where there is none)."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    value = loss(*leaves, *arguments, **options)
    weight = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
    (value * weight.to(value.device)).sum().backward()
    return [value.detach()] + [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]


@dataclass(frozen=True)
class Form:
    """A form of the loss: of embeddings, or of a score matrix."""

    name: str
    fused: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    used: tuple[int, ...]  # operands of each objective

    def chosen(self, operands: Sequence[Tensor], group_ids: Tensor | None = None, **options: Any) -> list[Tensor]:
        """What the operator chose: text of each image and image of each text, (B,) int64; −1 for none."""
        opt = LossOptions.create(**options)
        used = self.used[opt.objective]
        aoq = torch.ops.aoq
        operator = aoq.quintuplet_forward if self is EMBEDDINGS else aoq.quintuplet_score_forward
        out = operator(*operands[:used], *[None] * (self.used[-1] - used), group_ids, *opt.lists())
        return [out[1].long(), out[2].long()]


EMBEDDINGS = Form(
    "embeddings", functional.adaptive_quintuplet_loss, reference.adaptive_quintuplet_loss, used=(2, 4, 6, 6)
)
SCORES = Form(
    "scores", functional.adaptive_quintuplet_score_loss, reference.adaptive_quintuplet_score_loss, used=(1, 3, 5, 5)
)


def on_the_cpu(operands: Sequence[Tensor], group_ids: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """In float64, where truth is computed."""
    return [operand.detach().cpu().double() for operand in operands], None if group_ids is None else group_ids.cpu()


def allowed_negatives(
    direction: Tensor,  # (B, B), anchors in rows
    group_ids: Tensor | None,  # (B,)
    options: dict[str, Any],
) -> Tensor:  # (B, B) bool
    allowed = reference.allowed_negatives(direction, group_ids)
    if options.get("online") == "semihard":
        allowed = allowed & ~(direction >= direction.diagonal()[:, None])
    return allowed


def decision_distance(
    operands: Sequence[Tensor],  # of the embedding form
    group_ids: Tensor | None = None,
    margin_online: float = 0.2,
    margin_offline: float = 0.0,
    alpha: float = 0.3,
    beta: float = 1.5,
    similarity: str = "dot",
    **others: Any,
) -> float:
    """How near, in float64, any score is to where a choice, a hinge or the clamp of a weight turns; for every mode."""
    wide, group_ids = on_the_cpu(operands, group_ids)
    scores, *offline = scores_of(wide, similarity)
    if not len(scores):
        return math.inf
    distances = [margin_offline + score - scores.diagonal() for score in offline]
    for direction, hard in ((scores, offline[0]), (scores.T, offline[1])):
        above = (direction - direction.diagonal()[:, None])[allowed_negatives(direction, group_ids, {})]
        distances += [above, margin_online + above]
        for online in ("hardest", "semihard"):
            best = direction.masked_fill(~allowed_negatives(direction, group_ids, {"online": online}), -math.inf)
            best = best.topk(min(2, len(scores)), dim=1).values
            distances += [best[:, 0] - best[:, -1], alpha * beta - (hard - best[:, 0])] if best.shape[1] > 1 else []
    for anchor, candidates, order in ((wide[0], wide[3], 1), (wide[1], wide[2], -1)):
        if candidates.dim() == 3 and candidates.shape[1] > 1:
            kind = Similarity[similarity.upper()]
            best = reference._similarity(*(anchor[:, None], candidates)[::order], kind).topk(2, dim=1).values
            distances.append(best[:, 0] - best[:, 1])
    return min(d.abs().nan_to_num(math.inf, posinf=math.inf).amin().item() for d in distances if d.numel())


def by_hand(
    scores: list[list[float]],
    a: list[float],
    b: list[float],
    c: list[float],
    d: list[float],
    groups: list[int] | None = None,
    *,
    objective: str = "adaptive_quintuplet",
    online: str = "hardest",
    margin_online: float = 0.2,
    margin_offline: float = 0.0,
    alpha: float = 0.3,
    beta: float = 1.5,
) -> list[float]:
    """L_i of every pair, from the formulae, one number at a time, without torch."""
    count = len(scores)
    groups = groups or list(range(count))
    rung = OBJECTIVES.index(objective)
    losses = []
    for i in range(count):
        p, loss = scores[i][i], 0.0
        others = [j for j in range(count) if groups[j] != groups[i]]
        for column, offline in (([scores[i][j] for j in others], a[i]), ([scores[j][i] for j in others], b[i])):
            negatives = [s for s in column if s > -math.inf]
            if online == "semihard":
                negatives = [s for s in negatives if s < p]
            if not negatives:
                continue
            hardest = max(negatives)
            weight = beta - (offline - hardest) / alpha if rung == 3 else 1.0
            chosen = negatives if online == "all" else [hardest]
            loss += weight * math.fsum(max(0.0, margin_online + s - p) for s in chosen)
        for offline in [a[i], b[i]] * (rung >= 1) + [c[i], d[i]] * (rung >= 2):
            loss += max(0.0, margin_offline + offline - p)
        losses.append(loss)
    return losses
