"""Mining the training set: with the weights of a finished run, and again and again while one trains."""

from __future__ import annotations

import copy
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from aoq_ext.mining import mine_hard_negatives
from aoq_ext.mining.lists_folder import fingerprint_embeddings
from aoq_ext.mining.sampler import OfflineNegativeSampler
from aoq_ext.training import streams
from aoq_ext.training.checkpoint import load_checkpoint, restore_model, save_checkpoint
from aoq_ext.training.config import ConfigError, TrainConfig, mined_at
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.model import DualEncoder, embed_images, embed_texts
from aoq_ext.training.offline import OfflineLists, fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.progress import TrainingProgress
from aoq_ext.training.run import RunFiles


def mine_run(run: str | Path | LoadedRun, k_text: int = 300, k_image: int = 60, scores: bool = False) -> OfflineLists:
    """The hardest negatives of the training set, both ways, as a run's best weights see it.

    Images of one group, and the captions of those images, are never each other's negatives.

    Args:
        run: a run's folder, or the run itself.
        k_text: texts listed for each image; lists longer than the data set allows are cut to it.
        k_image: images listed for each text.
        scores: keep the scores as well.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    data = load_split(loaded.config.data, loaded.config.data.train_split)
    pairs = EncodedPairs(data, loaded.vocabulary)
    return mine_model(loaded.model, pairs, k_text, k_image, scores, str(loaded.folder), loaded.epoch)


def mine_model(
    model: DualEncoder,
    pairs: EncodedPairs,
    k_text: int = 300,
    k_image: int = 60,
    scores: bool = False,
    run: str | None = None,
    epoch: int | None = None,
) -> OfflineLists:
    """See `mine_run`; ``run`` and ``epoch`` say in the lists where the weights come from."""
    data = pairs.data
    images = embed_images(model, data.images)  # (N, D)
    texts = embed_texts(model, pairs.tokens, pairs.lengths)  # (M, D)
    image_groups = torch.from_numpy(data.group_ids).to(images.device)  # (N,)
    text_groups = image_groups[torch.from_numpy(data.caption_image).to(images.device)]  # (M,)
    k_text, k_image = min(k_text, len(texts)), min(k_image, len(images))
    hard_texts = mine_hard_negatives(
        images, texts, k_text, image_groups, text_groups, direction="both", k_reverse=k_image
    )
    hard_images = hard_texts.reverse
    assert hard_images is not None
    return OfflineLists(
        texts=hard_texts.indices.to("cpu", torch.int32).numpy(),
        images=hard_images.indices.to("cpu", torch.int32).numpy(),
        data_fingerprint=fingerprint_data(data),
        weights_fingerprint=fingerprint_weights(model.state_dict()),
        text_scores=hard_texts.scores.cpu().numpy() if scores else None,
        image_scores=hard_images.scores.cpu().numpy() if scores else None,
        text_image=pairs.caption_image,
        embeddings_fingerprint=fingerprint_embeddings(images, texts),
        run=run,
        epoch=epoch,
    )


class RunNegatives:
    """What a run draws its offline negatives from: the lists it was given, then those that it mines itself.

    A checkpoint holds no lists, only the fingerprint of those in use. They lie beside it, and so do the weights that
    mined them: lists that are lost or damaged are mined again, to the same bits, wherever the run was killed.
    """

    def __init__(self, config: TrainConfig, files: RunFiles, pairs: EncodedPairs) -> None:
        self.config = config
        self.files = files
        self.pairs = pairs
        self.sampler: OfflineNegativeSampler | None = None
        self.given_fingerprint = "none"  # of the lists in the configuration
        self.mined: dict[str, Any] | None = (
            None  # epoch, fingerprints of lists and weights, seconds: for the checkpoint
        )
        self._mined_sampler = False
        self._warned = False
        if config.offline.lists is not None:
            lists = OfflineLists.load(config.offline.lists)
            lists.check_matches(pairs.data)
            self.given_fingerprint = lists.fingerprint()
            self.sampler = self._sampler(lists)

    def prepare(self, epoch: int, model: DualEncoder, progress: TrainingProgress) -> bool:
        """Make `sampler` what ``epoch`` (from 0) draws from; returns whether that took mining with ``model``."""
        due = mined_at(self.config, epoch)
        mines = due is not None and (self.mined is None or self.mined["epoch"] != due)
        if mines:
            assert due == epoch  # checkpoints know every earlier mining
            weights = model.state_dict()
            save_checkpoint(self.files.miner, {"model": weights, "epoch": epoch})
            started = time.perf_counter()
            lists = self._mine(model, epoch, progress)
            self.mined = {
                "epoch": epoch,
                "lists": lists.fingerprint(),
                "weights": lists.weights_fingerprint,
                "seconds": time.perf_counter() - started,
            }
            progress.mined(epoch, self.mined["seconds"])
            self._use(lists)
        elif due is not None and not self._mined_sampler:
            self._use(self._recover(model, progress))
        self._warn_if_stale(epoch)
        return mines

    def seconds(self, epoch: int) -> float | None:
        """How long mining took before ``epoch``; None where there was none."""
        return self.mined["seconds"] if self.mined is not None and self.mined["epoch"] == epoch else None

    def _recover(self, model: DualEncoder, progress: TrainingProgress) -> OfflineLists:
        """The lists that the restored checkpoint was trained with."""
        assert self.mined is not None
        epoch = self.mined["epoch"]
        try:
            lists = OfflineLists.load(self.files.mined_lists(epoch))
        except ConfigError:  # missing or damaged
            lists = None
        if lists is not None and lists.fingerprint() == self.mined["lists"]:
            return lists
        if fingerprint_weights(model.state_dict()) != self.mined["weights"]:
            model = copy.deepcopy(model)
            restore_model(model, load_checkpoint(self.files.miner), self.files.miner)
        if (found := fingerprint_weights(model.state_dict())) != self.mined["weights"]:
            raise ConfigError(
                f"run: {self.files.mined_lists(epoch)} does not hold the lists of the run to resume, and "
                f"{self.files.miner} not the weights that mined them (expected fingerprint "
                f"{self.mined['weights'][:12]}..., got {found[:12]}...); start a new run"
            )
        lists = self._mine(model, epoch, progress)
        if (found := lists.fingerprint()) != self.mined["lists"]:
            raise ConfigError(
                f"run: mining again with the weights of epoch {epoch} gave other lists (expected fingerprint "
                f"{self.mined['lists'][:12]}..., got {found[:12]}...): resume on a processor of the same kind and with "
                f"the same number of threads, or start a new run"
            )
        return lists

    def _mine(self, model: DualEncoder, epoch: int, progress: TrainingProgress) -> OfflineLists:
        """Mine, and leave the lists, and no others, in the run's folder; returns them memory-mapped."""
        progress.mining()
        options = self.config.offline
        lists = mine_model(
            model, self.pairs, options.top_texts, options.top_images, run=str(self.files.folder), epoch=epoch
        )
        folder = self.files.mined_lists(epoch)
        half = folder.with_name(f".{folder.name}.tmp")
        for stale in (half, folder):
            shutil.rmtree(stale, ignore_errors=True)
        lists.save(half).rename(folder)
        for other in self.files.negatives.glob("epoch-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        return OfflineLists.load(folder)

    def _use(self, lists: OfflineLists) -> None:
        self.sampler = self._sampler(lists)
        self._mined_sampler = True

    def _sampler(self, lists: OfflineLists) -> OfflineNegativeSampler:
        options = self.config.offline
        return lists.sampler(
            self.pairs.caption_image, options.top_texts, options.top_images, streams.sampler_seed(self.config.seed)
        )

    def _warn_if_stale(self, epoch: int) -> None:
        age = self.config.offline.stale_after
        if age is not None and not self._warned and self.sampler is not None:
            run = None if self._mined_sampler else str(self.files.folder)
            self._warned = self.sampler.warn_if_stale(epoch, age, run)
