"""Offline negatives that cost no encoding: their embeddings are those of the last mining, as constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoq_ext.lists import OfflineNegativeSampler
from aoq_ext.losses import AdaptiveQuintupletLoss
from aoq_ext.mining import mine_hard_negatives
from aoq_ext.parallel import ALONE
from aoq_ext.training import TrainConfig, streams
from aoq_ext.training.batches import Batch
from aoq_ext.training.checkpoint import load_checkpoint
from aoq_ext.training.defaults import torch_defaults
from aoq_ext.training.encode import EncodedSplit
from aoq_ext.training.objective import TrainingObjective
from aoq_ext.training.processes import start
from aoq_ext.training.run import RunFiles
from aoq_ext.training.step import StepFeatures
from aoq_ext.training.trainer import Trainer


@dataclass(frozen=True)
class Bank:
    """Embeddings of all training rows, and who is hard for whom by them."""

    images: Tensor  # (N, D)
    texts: Tensor  # (M, D)
    sampler: OfflineNegativeSampler

    def negatives(self, batch: Batch, count: int) -> dict[str, Tensor]:
        """The offline arguments of the loss: (B, D), or (B, count, D) where there are several candidates."""
        image, text = torch.from_numpy(batch.image), torch.from_numpy(batch.caption)
        draws = [self.sampler.draw(image, text, batch.step * count + place) for place in range(count)]
        found = {}
        for name in ("hard_image", "hard_text", "hard_text_image", "hard_image_text"):
            rows = torch.stack([getattr(draw, name) for draw in draws], dim=1)  # (B, count)
            found[name] = (self.texts if name.endswith("text") else self.images)[rows]
        return {name: part.squeeze(1) for name, part in found.items()}


class BankObjective(TrainingObjective):
    """Encodes a plain triplet's rows; the quintuplets' others come from the bank, in the order of the batches."""

    def __init__(self, plain: TrainingObjective, options: Any, bank: Bank, batches: Iterator[Batch], count: int):
        super().__init__(plain.model, options, plain.objective, plain.online, plain.processes)
        adaptive = replace(options, objective="adaptive_quintuplet", detach_weight=True)
        self.adaptive = AdaptiveQuintupletLoss(**asdict(adaptive))
        self.bank, self.batches, self.count = bank, batches, count

    def loss(self, features: StepFeatures) -> Tensor:
        negatives = self.bank.negatives(next(self.batches), self.count)
        vectors = {name: side.values for name, side in features.sides.items()}
        loss: Tensor = self.adaptive(**vectors, **negatives, group_ids=features.group_ids)
        return loss


class BankTrainer(Trainer):
    """Mines anew before every epoch."""

    candidates = 1

    def _steps(self, epoch: int, objective: TrainingObjective) -> None:
        first_step = self.step - epoch * self.batches.steps_per_epoch
        batches = self.batches.epoch(epoch, first_step)
        bank = self._mine()
        super()._steps(epoch, BankObjective(objective, self.config.loss, bank, batches, self.candidates))

    def _mine(self) -> Bank:
        images, texts = EncodedSplit.of(self.model, self.pairs).vectors()
        owners = torch.from_numpy(self.pairs.caption_image)
        groups = torch.from_numpy(self.pairs.data.group_ids)
        k, k_reverse = self.config.offline.top_texts, self.config.offline.top_images
        found = mine_hard_negatives(
            images,
            texts,
            anchor_ids=groups,
            candidate_ids=groups[owners],
            direction="both",
            k=min(k, len(texts)),
            k_reverse=min(k_reverse, len(images)),
        )
        assert found.reverse is not None
        sampler = OfflineNegativeSampler(
            found.indices,
            found.reverse.indices,
            owners,
            top_texts=k,
            top_images=k_reverse,
            seed=streams.sampler_seed(self.config.seed),
        )
        return Bank(images, texts, sampler)


@torch_defaults()
def train_with_bank(config: TrainConfig, candidates: int, console: Any) -> Path:
    """As `aoq_ext.training.train` with ``resume``, in this process alone. It is resumed at the start of an epoch."""
    files = RunFiles(config.run)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    with torch.random.fork_rng(), files.locked():
        trainer = BankTrainer(config, files, start(config), ALONE, console)
        trainer.candidates = candidates
        if files.last.exists():
            trainer.restore(load_checkpoint(files.last))
        trainer.fit()
    return files.folder
