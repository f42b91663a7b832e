"""Mining the training set: with the weights of a finished run, and again and again while one trains."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aoq_ext.mining import caption_labels, mine_hard_negatives, mine_to_files
from aoq_ext.mining.lists_folder import fingerprint_embeddings
from aoq_ext.mining.progress import MiningProgress
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


@dataclass(frozen=True)
class MiningOptions:
    """What may be a negative, and how the work is done; as the arguments of `aoq_ext.mining.mine_to_files`."""

    repeated_captions: bool = False  # whether a text that repeats a caption of an image may be its negative
    skip: int = 0
    margin: float | None = None
    relative_margin: float | None = None
    max_score: float | None = None
    memory_limit: int | None = None
    work: Path | None = None  # a folder that keeps what was done if the process is stopped; removed in the end
    on_progress: Callable[[MiningProgress], None] | None = None


def mine_run(
    run: str | Path | LoadedRun,
    k_text: int = 300,
    k_image: int = 60,
    scores: bool = False,
    options: MiningOptions | None = None,
) -> OfflineLists:
    """The hardest negatives of the training set, both ways, as a run's best weights see it.

    Images of one group, and the captions of those images, are never each other's negatives; nor is, unless the options
    allow it, a text that repeats a caption of an image.

    Args:
        run: a run's folder, or the run itself.
        k_text: texts listed for each image; lists longer than the data set allows are cut to it.
        k_image: images listed for each text.
        scores: keep the scores as well.
        options: further rules, and where the work is kept.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    data = load_split(loaded.config.data, loaded.config.data.train_split)
    pairs = EncodedPairs(data, loaded.vocabulary)
    return mine_model(loaded.model, pairs, k_text, k_image, scores, str(loaded.folder), loaded.epoch, options)


def mine_model(
    model: DualEncoder,
    pairs: EncodedPairs,
    k_text: int = 300,
    k_image: int = 60,
    scores: bool = False,
    run: str | None = None,
    epoch: int | None = None,
    options: MiningOptions | None = None,
) -> OfflineLists:
    """See `mine_run`; ``run`` and ``epoch`` say in the lists where the weights come from."""
    data = pairs.data
    images = embed_images(model, data.images)  # (N, D)
    texts = embed_texts(model, pairs.tokens, pairs.lengths)  # (M, D)
    found = _mine(pairs, images, texts, min(k_text, len(texts)), min(k_image, len(images)), options or MiningOptions())
    return OfflineLists(
        texts=found[0].astype(np.int32, copy=False),
        images=found[2].astype(np.int32, copy=False),
        data_fingerprint=fingerprint_data(data),
        weights_fingerprint=fingerprint_weights(model.state_dict()),
        text_scores=found[1] if scores else None,
        image_scores=found[3] if scores else None,
        text_image=pairs.caption_image,
        embeddings_fingerprint=fingerprint_embeddings(images, texts),
        run=run,
        epoch=epoch,
    )


def _mine(
    pairs: EncodedPairs, images: Tensor, texts: Tensor, k_text: int, k_image: int, options: MiningOptions
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Texts (N, k_text) of each image, their scores, images (M, k_image) of each text, their scores."""
    text_image = torch.from_numpy(pairs.caption_image)
    image_groups = torch.from_numpy(pairs.data.group_ids)  # (N,)
    arguments: dict[str, Any] = {
        name: getattr(options, name) for name in ("skip", "margin", "relative_margin", "max_score", "memory_limit")
    }
    if not options.repeated_captions:
        labels = caption_labels(pairs.data.captions, text_image, len(images))
        arguments["candidate_labels"], arguments["anchor_labels"] = labels
    groups = image_groups, image_groups[text_image]
    if options.work is None:
        found = mine_hard_negatives(
            images, texts, k_text, *groups, direction="both", k_reverse=k_image, device=images.device, **arguments
        )
        assert found.reverse is not None
        lists = (found.indices, found.scores, found.reverse.indices, found.reverse.scores)
        return tuple(part.cpu().numpy() for part in lists)  # type: ignore[return-value]
    mined = mine_to_files(
        images, texts, options.work, k_text, *groups, direction="both", k_reverse=k_image,
        on_progress=options.on_progress, **arguments,
    )  # fmt: skip
    assert mined.reverse_indices is not None and mined.reverse_scores is not None
    return mined.indices, mined.scores, mined.reverse_indices, mined.reverse_scores


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
