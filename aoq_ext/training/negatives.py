"""The offline negatives of a run that trains: given, or mined with its own weights again and again."""

from __future__ import annotations

import copy
import shutil
import time
from typing import Any

from aoq_ext.lists import OfflineNegativeSampler
from aoq_ext.parallel import Processes
from aoq_ext.training import streams
from aoq_ext.training.checkpoint import load_checkpoint, restore_model, save_checkpoint
from aoq_ext.training.config import ConfigError, TrainConfig, mined_at
from aoq_ext.training.mining import MiningOptions, mine_model
from aoq_ext.training.model import Model
from aoq_ext.training.offline import OfflineLists, fingerprint_weights
from aoq_ext.training.pairs import EncodedPairs
from aoq_ext.training.progress import TrainingProgress
from aoq_ext.training.run import RunFiles


class RunNegatives:
    """What a run draws its offline negatives from: the lists it was given, then those that it mines itself.

    A checkpoint holds no lists, only the fingerprint of those in use. They lie beside it, and so do the weights that
    mined them: lists that are lost or damaged are mined again, to the same bits, wherever the run was killed.
    """

    def __init__(self, config: TrainConfig, files: RunFiles, pairs: EncodedPairs, processes: Processes) -> None:
        self.config = config
        self.files = files
        self.pairs = pairs
        self.processes = processes
        self.sampler: OfflineNegativeSampler | None = None
        self.given_fingerprint = "none"  # of the lists in the configuration
        # For the checkpoint: epoch, fingerprints of lists and weights, seconds.
        self.mined: dict[str, Any] | None = None
        self._mined_sampler = False
        self._warned = False
        if config.offline.lists is not None:
            lists = OfflineLists.load(config.offline.lists)
            lists.check_matches(pairs.data)
            self.given_fingerprint = lists.fingerprint()
            self.sampler = self._sampler(lists)

    def prepare(self, epoch: int, model: Model, progress: TrainingProgress) -> bool:
        """Make `sampler` what ``epoch`` (from 0) draws from; returns whether that took mining with ``model``."""
        due = mined_at(self.config, epoch)
        mines = due is not None and (self.mined is None or self.mined["epoch"] != due)
        if mines:
            assert due == epoch  # checkpoints know every earlier mining
            weights = {"model": model.state_dict(), "epoch": epoch}
            self.processes.by_leader("writing the weights", lambda: save_checkpoint(self.files.miner, weights))
            started = time.perf_counter()
            lists = self._mine(model, epoch, progress)
            mined: dict[str, Any] = {
                "epoch": epoch,
                "lists": lists.fingerprint(),
                "weights": lists.weights_fingerprint,
                "seconds": time.perf_counter() - started,
            }
            self.mined = self.processes.by_leader("mining", lambda: mined)
            progress.mined(epoch, self.mined["seconds"])
            self._use(lists)
        elif due is not None and not self._mined_sampler:
            self._use(self._recover(model, progress))
        self._warn_if_stale(epoch)
        return mines

    def seconds(self, epoch: int) -> float | None:
        """How long mining took before ``epoch``; None where there was none."""
        return self.mined["seconds"] if self.mined is not None and self.mined["epoch"] == epoch else None

    def _recover(self, model: Model, progress: TrainingProgress) -> OfflineLists:
        """The lists that the restored checkpoint was trained with."""
        assert self.mined is not None
        epoch = self.mined["epoch"]
        if self.processes.by_leader("reading the lists", lambda: self._has_lists(epoch)):
            return OfflineLists.load(self.files.mined_lists(epoch))
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

    def _has_lists(self, epoch: int) -> bool:
        """Whether those of the checkpoint are there, whole."""
        assert self.mined is not None
        try:
            return OfflineLists.load(self.files.mined_lists(epoch)).fingerprint() == str(self.mined["lists"])
        except ConfigError:  # missing or damaged
            return False

    def _mine(self, model: Model, epoch: int, progress: TrainingProgress) -> OfflineLists:
        """Mine, and leave the lists, and no others, in the run's folder; returns them memory-mapped."""
        progress.mining()
        offline = self.config.offline
        options = MiningOptions(offline.top_texts, offline.top_images, rerank=offline.rerank)
        lists = mine_model(model, self.pairs, options, str(self.files.folder), epoch, self.processes)
        self.processes.by_leader("writing the lists", lambda: self._replace(lists, epoch))
        return OfflineLists.load(self.files.mined_lists(epoch))

    def _replace(self, lists: OfflineLists, epoch: int) -> None:
        folder = self.files.mined_lists(epoch)
        half = folder.with_name(f".{folder.name}.tmp")
        for stale in (half, folder):
            shutil.rmtree(stale, ignore_errors=True)
        lists.save(half).rename(folder)
        for other in self.files.negatives.glob("epoch-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def _use(self, lists: OfflineLists) -> None:
        self.sampler = self._sampler(lists)
        self._mined_sampler = True

    def _sampler(self, lists: OfflineLists) -> OfflineNegativeSampler:
        options = self.config.offline
        try:
            return OfflineNegativeSampler.from_lists(
                lists,
                self.pairs.caption_image,
                top_texts=options.top_texts,
                top_images=options.top_images,
                seed=streams.sampler_seed(self.config.seed),
            )
        except ValueError as error:
            raise ConfigError(f"offline.lists: {error}") from error

    def _warn_if_stale(self, epoch: int) -> None:
        age = self.config.offline.stale_after
        if age is not None and not self._warned and self.sampler is not None and self.processes.leads:
            run = None if self._mined_sampler else str(self.files.folder)
            self._warned = self.sampler.warn_if_stale(epoch, age, run)
