"""The loss in the forms that are compared, all with the same arguments and the same result."""

from __future__ import annotations

from collections.abc import Callable

import torch
from gpu_targets import AUTOTUNED
from torch import Tensor

from aoq_ext import functional, reference

MARGIN_ONLINE, MARGIN_OFFLINE, ALPHA, BETA = 0.2, 0.0, 0.3, 1.5


def product(x: Tensor, y: Tensor) -> Tensor:  # (B, D), (B, D) -> (B, B)
    """x · yᵀ, not rounded to half precision where torch can leave it in float32."""
    if x.is_cuda and x.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(x, y.T, out_dtype=torch.float32)
    return x @ y.T


def mm_argmax_gather(
    x: Tensor,  # (B, D)
    y: Tensor,
    hard_image: Tensor,
    hard_text: Tensor,
    hard_text_image: Tensor,
    hard_image_text: Tensor,
) -> Tensor:  # ()
    """The strongest PyTorch form: one product without gradient, then only the chosen rows are differentiated."""
    with torch.no_grad():
        scores = product(x, y).fill_diagonal_(float("-inf"))
        text_index, image_index = scores.argmax(dim=1), scores.argmax(dim=0)

    def similarity(image: Tensor, text: Tensor) -> Tensor:  # (B, D), (B, D) -> (B,)
        return (image * text).sum(dim=1)

    p, n, m = similarity(x, y), similarity(x, y[text_index]), similarity(x[image_index], y)
    a, b = similarity(x, hard_text), similarity(hard_image, y)
    c, d = similarity(hard_image, hard_text), similarity(hard_text_image, hard_image_text)
    w, v = BETA - (a - n) / ALPHA, BETA - (b - m) / ALPHA
    online = w * (MARGIN_ONLINE + n - p).relu() + v * (MARGIN_ONLINE + m - p).relu()
    offline = sum((MARGIN_OFFLINE + s - p).relu() for s in (a, b, c, d))
    return (online + offline).sum()


LOSSES: dict[str, Callable[..., Tensor]] = {
    "aoq_ext": functional.adaptive_quintuplet_loss,
    "eager reference": reference.adaptive_quintuplet_loss,
    "torch.compile of it": torch.compile(reference.adaptive_quintuplet_loss, dynamic=False),
    "mm + argmax + gather": mm_argmax_gather,
}

# Minutes of compilation, so only where it is asked for.
GPU_LOSSES = LOSSES | {
    AUTOTUNED: torch.compile(reference.adaptive_quintuplet_loss, dynamic=False, mode="max-autotune-no-cudagraphs")
}


def unit_rows(count: int, width: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """Six operands (B, D) of random unit rows that require gradients."""
    generator = torch.Generator(device).manual_seed(0)
    rows = (torch.randn(count, width, generator=generator, device=device) for _ in range(6))
    return [torch.nn.functional.normalize(row, dim=1).to(dtype).requires_grad_() for row in rows]


def add_hubs(operands: list[Tensor]) -> None:
    """Make every image choose one text, and every text one image, as models do whose embeddings crowd."""
    with torch.no_grad():
        for chosen, chooser in ((1, 0), (0, 1)):
            operands[chooser][:, chosen] = 1.0
            operands[chosen][0, chosen] = 8.0


def training_step(loss: Callable[..., Tensor], operands: list[Tensor]) -> Callable[[], None]:
    """Forward and backward, from cleared gradients."""

    def step() -> None:
        for operand in operands:
            operand.grad = None
        loss(*operands).backward()

    return step


def bare_product(operands: list[Tensor]) -> Callable[[], None]:
    """x · yᵀ alone, the arithmetic no form can do without, as torch computes it."""
    x, y = operands[0].detach(), operands[1].detach()

    def multiply() -> None:
        torch.mm(x, y.T)

    return multiply


def product_and_copies(operands: list[Tensor]) -> Callable[[], None]:
    """The bare product, and the traffic no form can do without: six operands read, six gradients written."""
    multiply, values = bare_product(operands), [operand.detach() for operand in operands]

    def floor() -> None:
        multiply()
        for value in values:
            value.clone()

    return floor


FLOORS: dict[str, Callable[[list[Tensor]], Callable[[], None]]] = {
    "bare product": bare_product,
    "bare product and copies": product_and_copies,
}


def settle_allocator() -> None:
    """Bring glibc's allocator into the state of a training process, for all forms alike.

    It returns freed memory to the system at once until a block of up to 32 MiB has been freed, as in any training step;
    until then every gradient of a small batch is paid for in page faults, which takes longer than computing it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
