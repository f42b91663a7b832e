"""One step of the optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from aoq_ext.lists.sampler import OfflineNegativeSampler
from aoq_ext.parallel import Processes
from aoq_ext.training.batches import Batch
from aoq_ext.training.config import TrainConfig
from aoq_ext.training.diagnostics import measure
from aoq_ext.training.gradient import BatchGradient, BatchResult, Place
from aoq_ext.training.model import Model
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.pairs import EncodedPairs
from aoq_ext.training.step import rows_of


@dataclass(frozen=True)
class StepResult:
    loss: Tensor  # () the sum over all pairs of the step
    measurement: dict[str, float] | None  # as `measure` has it, where it was asked for


class Update:
    """Takes steps: gradients of every batch and every process added up, clipped, and given to Adam."""

    def __init__(
        self, config: TrainConfig, fabric: Fabric, processes: Processes, model: Model, pairs: EncodedPairs
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.processes = processes
        options = config.optimizer
        optimizer = torch.optim.Adam(
            model.parameters(),
            lr=options.lr,
            weight_decay=options.weight_decay,
            fused=config.precision != "16-mixed",  # the fused one unscales by itself, after what is clipped here
        )
        _, self.optimizer = fabric.setup(model, optimizer)
        self.model = model
        self.gradient = BatchGradient(model, pairs, fabric, config.micro_batch, config.model.auxiliary_weight)
        processes.copy_from_leader([*model.parameters(), *model.buffers()])

    def __call__(
        self,
        batch: Batch,
        objective: TrainingObjective,
        sampler: OfflineNegativeSampler | None,
        lr: float,
        measured: bool,
    ) -> StepResult:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad()
        results = []
        measurements = []
        for number, part in enumerate(batch.parts(self.config.accumulate)):
            own = part.rows(self.processes.share(len(part)))
            place = Place(self.config.seed, batch.step, number, self.processes.rank)
            result = self.gradient(rows_of(own, sampler, objective.objective), objective, place, len(part))
            results.append(self._total(result))
            if measured:
                measurements.append(self._measure(result, objective, len(part)))
        self.processes.sum_gradients(self.model)
        self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=self.config.optimizer.clip_norm, error_if_nonfinite=False
        )
        self.optimizer.step()
        # What modules remember (running statistics) is the leader's, as with DistributedDataParallel.
        self.processes.copy_from_leader(self.model.buffers())
        loss = results[0] if len(results) == 1 else torch.stack(results).sum()
        return StepResult(loss, _mean(measurements) if measured else None)

    def _auxiliary(self, result: BatchResult) -> Tensor | None:
        """() of all pairs of the batch"""
        own = result.auxiliary
        return None if own is None else self.processes.gather(own.reshape(1), [1] * self.processes.world).sum()

    def _total(self, result: BatchResult) -> Tensor:
        auxiliary = self._auxiliary(result)
        return result.loss if auxiliary is None else result.loss + auxiliary

    def _measure(self, result: BatchResult, objective: TrainingObjective, pairs: int) -> dict[str, float]:
        similarities = objective.similarities(result.features)
        measurement = measure(similarities, self.config.loss, objective.objective, objective.online)
        if (auxiliary := self._auxiliary(result)) is not None:
            measurement["loss/auxiliary"] = auxiliary.item() / pairs
        # Whether a run stops hangs on this: all processes must see the same.
        return self.processes.by_leader("measuring", lambda: measurement)


def _mean(measurements: list[dict[str, float]]) -> dict[str, float]:
    """Of each entry, over the measurements that have it."""
    if len(measurements) == 1:
        return measurements[0]
    names = dict.fromkeys(name for measurement in measurements for name in measurement)
    values = {name: [entry[name] for entry in measurements if name in entry] for name in names}
    return {name: sum(found) / len(found) for name, found in values.items()}
