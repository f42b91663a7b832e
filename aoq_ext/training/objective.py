"""The loss of a step, from the features of its rows."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from aoq_ext.encoders.model import Features, quintuplet_scores
from aoq_ext.encoders.padding import padded_to
from aoq_ext.losses import AdaptiveQuintupletLoss, AdaptiveQuintupletScoreLoss
from aoq_ext.parallel import Processes, Shares
from aoq_ext.parallel.tensors import GatherRows
from aoq_ext.training.config import LossConfig
from aoq_ext.training.diagnostics import BatchSimilarities
from aoq_ext.training.model import Model
from aoq_ext.training.step import StepFeatures


class TrainingObjective:
    """One rung of the ladder. With several processes, features are a share of the batch and the loss is that of all.

    Of a model that embeds, the fused loss never holds the score matrix. Of one that scores, every process scores its
    own images with the texts of all, and the offline pairs one by one; texts travel as features, and their gradients
    come back, added up.
    """

    def __init__(self, model: Model, options: LossConfig, objective: str, online: str, processes: Processes) -> None:
        self.model = model
        self.objective = objective
        self.online = online
        self.processes = processes
        chosen = {"objective": objective, "online": online, "gather_distributed": not processes.alone}
        kind = AdaptiveQuintupletLoss if model.embeds else AdaptiveQuintupletScoreLoss
        self.function = kind(**asdict(options) | chosen)

    def loss(self, features: StepFeatures) -> Tensor:
        """The sum over all pairs of the batch."""
        if self.model.embeds:
            vectors = {name: side.values for name, side in features.sides.items()}
            loss: Tensor = self.function(**vectors, group_ids=features.group_ids)
        else:
            own = self._own_similarities(features)
            loss = self.function(own.scores, *own.offline, group_ids=own.group_ids)
        return loss

    @torch.no_grad()
    def similarities(self, features: StepFeatures) -> BatchSimilarities:
        """Of the whole batch, for `measure`; every process asks at the same time."""
        own = self._own_similarities(features)
        gather = self.processes.gather
        return BatchSimilarities(gather(own.scores), gather(own.group_ids), tuple(gather(part) for part in own.offline))

    def _own_similarities(self, features: StepFeatures) -> BatchSimilarities:
        """Those of this process's images, with the texts of all."""
        scores = quintuplet_scores(self.model, **features.sides, texts=self._everyones(features.text))
        return BatchSimilarities(scores.pop("scores"), features.group_ids, tuple(scores.values()))

    def _everyones(self, texts: Features) -> Features:
        """The texts of all processes in rank order, padded to the longest of them."""
        if self.processes.alone:
            return texts
        rows, sizes = zip(*self.processes.meet("exchanging texts", lambda: texts.values.shape[:2]), strict=True)
        shares = Shares(rows, self.processes.rank)
        values = GatherRows.apply(padded_to(max(sizes), texts.values), shares)
        return Features(values, None if texts.lengths is None else GatherRows.apply(texts.lengths, shares))
