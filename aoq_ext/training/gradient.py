"""The gradient of one batch: in one pass, or in micro-batches of which only the features are kept.

Gradient caching (Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
2021, arXiv 2101.06983): the loss needs every feature of the batch at once, but no encoder does. So the batch is first
encoded without a graph; the loss of these features gives their gradients; then each micro-batch is encoded again, now
with its graph, and the gradients of its features are sent back through it. The sum over the micro-batches is the
gradient of the whole batch.

Both passes must see the same model: random numbers are drawn from a seed of the micro-batch's own, and buffers (running
statistics) are put back in between. A layer that normalises over its batch sees a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from aoq_ext.encoders.model import Features
from aoq_ext.training import streams
from aoq_ext.training.model import Model
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.step import StepFeatures, StepRows


@dataclass(frozen=True)
class Place:
    """Where in a run a batch is, which decides what its modules draw (dropout)."""

    seed: int
    step: int
    part: int = 0  # of the step
    rank: int = 0

    def seed_torch(self, chunk: int = 0) -> None:
        torch.manual_seed(streams.torch_seed(self.seed, 1 + self.step, self.part, self.rank, chunk))


@dataclass(frozen=True)
class BatchResult:
    """What a batch's gradient came with, without its graph."""

    loss: Tensor  # () of the whole batch, without the model's own
    features: StepFeatures
    auxiliary: Tensor | None  # () what this process's pairs add to the model's own loss, weighted


class BatchGradient:
    """Adds the gradient of a batch to the parameters'."""

    def __init__(self, model: Model, fabric: Fabric, micro_batch: int | None, auxiliary_weight: float) -> None:
        self.model = model
        self.fabric = fabric
        self.micro_batch = micro_batch
        self.auxiliary_weight = auxiliary_weight

    def __call__(self, rows: StepRows, objective: TrainingObjective, place: Place, batch_size: int) -> BatchResult:
        """batch_size: pairs of all processes"""
        chunks = rows.chunks(self.micro_batch)
        if len(chunks) > 1:
            return self._in_chunks(rows, chunks, objective, place, batch_size)
        place.seed_torch()
        image, text, auxiliary = self._encode(rows, chunks[0], batch_size)
        features = self._features(image, text, rows)
        loss = objective.loss(features)
        self.fabric.backward(loss if auxiliary is None else loss + auxiliary)
        return _result(loss, features, auxiliary)

    def _in_chunks(
        self, rows: StepRows, chunks: list[slice], objective: TrainingObjective, place: Place, batch_size: int
    ) -> BatchResult:
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        parts = []
        for number, chunk in enumerate(chunks):
            place.seed_torch(number)
            with torch.no_grad():
                parts.append(self._encode(rows, chunk, batch_size)[:2])
        image, text = (Features.concatenate(side) for side in zip(*parts, strict=True))
        del parts
        for side in (image, text):
            side.values.requires_grad_()
        features = self._features(image, text, rows)
        loss = objective.loss(features)
        self.fabric.backward(loss)

        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
        sizes = [chunk.stop - chunk.start for chunk in chunks]
        image_grads, text_grads = (_gradient(side.values).split(sizes) for side in (image, text))
        total = None
        for number, chunk in enumerate(chunks):
            place.seed_torch(number)
            *both, auxiliary = self._encode(rows, chunk, batch_size)
            self._send_back(both, [image_grads[number], text_grads[number]], auxiliary)
            if auxiliary is not None:
                total = auxiliary.detach() + (0 if total is None else total)
        return _result(loss, features, total)

    def _encode(self, rows: StepRows, chunk: slice, batch_size: int) -> tuple[Features, Features, Tensor | None]:
        """Features of these images and of these texts, and what the pairs among them add to the model's own loss."""
        device = self.fabric.device
        images = rows.images_at(chunk, device)
        tokens, lengths = rows.texts_at(chunk, device)
        pairs = max(0, min(chunk.stop, rows.pairs) - chunk.start) if torch.is_grad_enabled() else 0
        with self.fabric.autocast():
            image, text, auxiliary = self.model(images, tokens, lengths, pairs)
        if auxiliary is not None:
            auxiliary = auxiliary * (self.auxiliary_weight * pairs / batch_size)
        return image.full_precision(), text.full_precision(), auxiliary

    def _features(self, image: Features, text: Features, rows: StepRows) -> StepFeatures:
        return StepFeatures.of(image, text, rows, rows.group_ids.to(self.fabric.device, non_blocking=True))

    def _send_back(self, both: list[Features], gradients: list[Tensor], auxiliary: Tensor | None) -> None:
        outputs, directions = [], []
        for features, gradient in zip(both, gradients, strict=True):
            if features.values.requires_grad:
                outputs.append(features.values)
                directions.append(gradient[:, : features.values.shape[1]])  # without padding
        if auxiliary is not None:
            outputs.append(auxiliary)
            directions.append(self._scale() * torch.ones_like(auxiliary))
        if outputs:
            torch.autograd.backward(outputs, directions)

    def _scale(self) -> float:
        """By which Fabric multiplies a loss, so that half-precision gradients do not vanish."""
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return float(scaler.get_scale()) if scaler is not None else 1.0


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _result(loss: Tensor, features: StepFeatures, auxiliary: Tensor | None) -> BatchResult:
    return BatchResult(loss.detach(), features.detached(), None if auxiliary is None else auxiliary.detach())
