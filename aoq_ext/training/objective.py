"""The loss of a step, from features, for models that embed and for models that score."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from aoq_ext.encoders.matching import quintuplet_scores
from aoq_ext.losses import AdaptiveQuintupletLoss, AdaptiveQuintupletScoreLoss
from aoq_ext.parallel import Processes, Shares
from aoq_ext.parallel.tensors import GatherRows
from aoq_ext.training.config import LossConfig
from aoq_ext.training.diagnostics import BatchSimilarities
from aoq_ext.training.features import Features, leaves, pad, rebuild
from aoq_ext.training.model import DualEncoder, ScoringModel
from aoq_ext.training.step import StepFeatures


class TrainingObjective(ABC):
    """One rung of the ladder. With several processes, features are a share of the batch and the loss is that of all."""

    def __init__(self, objective: str, online: str, processes: Processes) -> None:
        self.objective = objective
        self.online = online
        self.processes = processes

    @abstractmethod
    def loss(self, features: StepFeatures) -> Tensor:
        """The sum over all pairs of the batch."""

    @abstractmethod
    def own_similarities(self, features: StepFeatures) -> BatchSimilarities:
        """Those of this process's images, with the texts of all."""

    @torch.no_grad()
    def similarities(self, features: StepFeatures) -> BatchSimilarities:
        """Of the whole batch, for `measure`; every process asks at the same time."""
        own = self.own_similarities(features)
        gather = self.processes.gather
        return BatchSimilarities(gather(own.scores), gather(own.group_ids), tuple(gather(part) for part in own.offline))


class EmbeddingObjective(TrainingObjective):
    """Scores are dot products: the fused loss never holds the score matrix."""

    def __init__(self, options: LossConfig, objective: str, online: str, processes: Processes) -> None:
        super().__init__(objective, online, processes)
        self.function = AdaptiveQuintupletLoss(
            margin_online=options.margin_online,
            margin_offline=options.margin_offline,
            alpha=options.alpha,
            beta=options.beta,
            objective=objective,
            online=online,
            detach_weight=options.detach_weight,
            clamp_weight=options.clamp_weight,
            gather_distributed=not processes.alone,
        )

    def loss(self, features: StepFeatures) -> Tensor:
        loss: Tensor = self.function(
            features.image,
            features.text,
            features.hard_image,
            features.hard_text,
            features.hard_text_image,
            features.hard_image_text,
            group_ids=features.group_ids,
        )
        return loss

    def own_similarities(self, features: StepFeatures) -> BatchSimilarities:
        image, text = features.image.float(), features.text.float()  # (b, D)
        offline = []
        if features.hard_image is not None:
            offline += [(image * features.hard_text).sum(dim=1), (features.hard_image * text).sum(dim=1)]
        if features.hard_text_image is not None:
            offline += [
                (features.hard_image * features.hard_text).sum(dim=1),
                (features.hard_text_image * features.hard_image_text).sum(dim=1),
            ]
        return BatchSimilarities(image @ self.processes.gather(text).T, features.group_ids, tuple(offline))


class ScoreObjective(TrainingObjective):
    """Scores are the model's: all of the batch's images with all of its texts, and the offline pairs one by one.

    With several processes each scores its own images with the texts of all. Texts travel as features, and their
    gradients come back, added up.
    """

    def __init__(
        self, options: LossConfig, objective: str, online: str, processes: Processes, model: ScoringModel
    ) -> None:
        super().__init__(objective, online, processes)
        self.model = model
        self.function = AdaptiveQuintupletScoreLoss(
            margin_online=options.margin_online,
            margin_offline=options.margin_offline,
            alpha=options.alpha,
            beta=options.beta,
            objective=objective,
            online=online,
            detach_weight=options.detach_weight,
            clamp_weight=options.clamp_weight,
            gather_distributed=not processes.alone,
        )

    def loss(self, features: StepFeatures) -> Tensor:
        own = self.own_similarities(features)
        loss: Tensor = self.function(own.scores, *own.offline, group_ids=features.group_ids)
        return loss

    def own_similarities(self, features: StepFeatures) -> BatchSimilarities:
        names = ("image", "text", "hard_image", "hard_text", "hard_text_image", "hard_image_text")
        given = {name: getattr(features, name) for name in names}
        scores = quintuplet_scores(self.model, **given, texts=self._everyones(features.text))
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


def make_objective(
    model: DualEncoder | ScoringModel, options: LossConfig, objective: str, online: str, processes: Processes
) -> EmbeddingObjective | ScoreObjective:
    if isinstance(model, DualEncoder):
        return EmbeddingObjective(options, objective, online, processes)
    return ScoreObjective(options, objective, online, processes, model)
