"""The loss of a step, from the features of its rows."""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from aoq_ext.encoders.model import quintuplet_scores
from aoq_ext.losses import AdaptiveQuintupletLoss, AdaptiveQuintupletScoreLoss
from aoq_ext.parallel import Processes, Shares
from aoq_ext.parallel.tensors import GatherRows
from aoq_ext.training.config import LossConfig
from aoq_ext.training.diagnostics import BatchSimilarities
from aoq_ext.training.features import Features, leaves, pad, rebuild
from aoq_ext.training.model import Model
from aoq_ext.training.step import StepFeatures

_SIDES = ("image", "text", "hard_image", "hard_text", "hard_text_image", "hard_image_text")


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
            sides = (getattr(features, name) for name in _SIDES)
            given = [None if side is None else side.values for side in sides]
        else:
            own = self._own_similarities(features)
            given = [own.scores, *own.offline]
        loss: Tensor = self.function(*given, group_ids=features.group_ids)
        return loss

    @torch.no_grad()
    def similarities(self, features: StepFeatures) -> BatchSimilarities:
        """Of the whole batch, for `measure`; every process asks at the same time."""
        own = self._own_similarities(features)
        gather = self.processes.gather
        return BatchSimilarities(gather(own.scores), gather(own.group_ids), tuple(gather(part) for part in own.offline))

    def _own_similarities(self, features: StepFeatures) -> BatchSimilarities:
        """Those of this process's images, with the texts of all."""
        sides = {name: getattr(features, name) for name in _SIDES}
        scores = quintuplet_scores(self.model, **sides, texts=self._everyones(features.text))
        return BatchSimilarities(scores.pop("scores"), features.group_ids, tuple(scores.values()))

    def _everyones(self, texts: Features) -> Features:
        """The texts of all processes in rank order, padded to the longest of them."""
        if self.processes.alone:
            return texts
        parts = leaves(texts)
        shapes = self.processes.meet("exchanging texts", lambda: [tuple(part.shape) for part in parts])
        shares = Shares(tuple(own[0][0] for own in shapes), self.processes.rank)
        gathered = []
        for number, part in enumerate(parts):
            if part.dim() > 1:
                part = pad(part, max(own[number][1] for own in shapes))
            gathered.append(GatherRows.apply(part, shares))
        return rebuild(texts, gathered)
