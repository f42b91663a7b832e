"""What the steps of an epoch look at, read ahead of them in other processes."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from aoq_ext._machine import available_cores
from aoq_ext.data import DataError, ImageRows
from aoq_ext.data.image_rows import is_in_memory
from aoq_ext.data.reading import RowReader, Unread, end_with_parent
from aoq_ext.lists.sampler import OfflineNegativeSampler
from aoq_ext.parallel import Processes
from aoq_ext.training import streams
from aoq_ext.training.batches import Indices, PairBatches
from aoq_ext.training.config import ConfigError, TrainConfig
from aoq_ext.training.pairs import EncodedPairs
from aoq_ext.training.step import RowNumbers, Step, rows_of

_WORKERS = 2  # one reads while another hands over what it has
_SHOWN = 5  # image numbers in a message


class Feed:
    """The steps of one process. Their numbers are drawn here, and captions are in memory; only images are read ahead.

    The processes that read are started at the first step and kept to the end of the run: they know nothing of epochs
    and of offline negatives. They are no forks of this one, which has threads and perhaps a GPU, and whose open files a
    fork would share with their positions, but of a server that has only imported what they need. Close the feed when no
    more is needed.
    """

    def __init__(
        self, config: TrainConfig, pairs: EncodedPairs, batches: PairBatches, processes: Processes, pin: bool = False
    ) -> None:
        """pin: read images into page-locked memory, for a GPU"""
        self.config = config
        self.pairs = pairs
        self.batches = batches
        self.processes = processes
        self._order = _Order()
        workers = _count_workers(config.data.workers, pairs.data.images)
        options: dict[str, Any] = {}
        if workers:
            multiprocessing.get_context("forkserver").set_forkserver_preload([RowReader.__module__])
            options = {
                "prefetch_factor": config.data.prefetch,
                "persistent_workers": True,
                "worker_init_fn": end_with_parent,
                "multiprocessing_context": "forkserver",
            }
        self._loader: DataLoader[Tensor | Unread] = DataLoader(
            RowReader(pairs.data.images),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._order,
            num_workers=workers,
            pin_memory=pin,
            generator=torch.Generator(),  # not the one that the modules draw from
            **options,
        )
        self._reading: Any = None  # torch's iterator, which owns the processes

    def epoch(
        self, epoch: int, first_step: int, objective: str, sampler: OfflineNegativeSampler | None
    ) -> Iterator[Step]:
        """The steps of ``epoch`` (from 0), without its first ``first_step``.

        Raises:
            ConfigError: the images cannot be handed to another process.
            DataError: an image cannot be read, or a process that reads ended.
        """
        steps = range(epoch * self.batches.steps_per_epoch, (epoch + 1) * self.batches.steps_per_epoch)[first_step:]
        if not steps:
            return
        self._order.start(self._requests(epoch, first_step, objective, sampler))
        self._start()
        for step in steps:
            size, parts = self.batches.step_size, range(self.config.accumulate)
            yield Step(step, size, [self.pairs.rows(*self._next(step)) for _ in parts])  # held here by no name

    def close(self) -> None:
        """End the processes that read."""
        if self._reading is not None and self._loader.num_workers:
            # Not left to the garbage collector: an error that is on its way holds a reference.
            self._reading._shutdown_workers()
        self._reading = None

    def _requests(
        self, epoch: int, first_step: int, objective: str, sampler: OfflineNegativeSampler | None
    ) -> Iterator[tuple[int, RowNumbers]]:
        share, hard = self.config.offline.batch_share, None
        if share and epoch >= self.config.warmup_epochs:
            assert sampler is not None  # the configuration was checked
            hard = self.batches.hard(sampler, share)
        for batch in self.batches.epoch(epoch, first_step, hard):
            for part, pairs in enumerate(batch.parts(self.config.accumulate)):
                own = pairs.rows(self.processes.share(len(pairs)))
                seed = streams.reader_seed(self.config.seed, batch.step, part, self.processes.rank)
                yield seed, rows_of(own, sampler, objective)

    def _start(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Got pickle error")  # the error itself says it better
                self._reading = iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            images = self.pairs.data.images
            raise ConfigError(
                f"data.workers: expected images that can be pickled, since other processes read them, got "
                f"{type(images).__name__} ({error}); give it __getstate__ and __setstate__, or set data.workers to 0"
            ) from error

    def _next(self, step: int) -> tuple[RowNumbers, Tensor]:
        try:
            images = next(self._reading)
        except RuntimeError as error:
            ended = [process.exitcode for process in self._processes() if not process.is_alive()]
            if not ended:
                raise
            raise DataError(self._describe_end(step, ended[0])) from error
        numbers = self._order.asked.popleft()
        if isinstance(images, Unread):
            data, row = self.pairs.data, images.row
            what = self._shown(numbers.image) if row is None else f"image {row} ({data.image_names[row]!r})"
            raise DataError(f"{what} of {data.name}, for step {step + 1}: {images.error}") from RuntimeError(
                images.trace
            )
        return numbers, images

    def _processes(self) -> list[Any]:
        return self._reading._workers if self._loader.num_workers else []

    def _describe_end(self, step: int, exit_code: int) -> str:
        by = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
        what = self._shown(self._order.asked[0].image) if self._order.asked else "images"
        causes = {
            -signal.SIGKILL: "; where memory ran out, lower data.workers or data.prefetch",
            -signal.SIGBUS: "; where /dev/shm is full, enlarge it, or lower data.workers or data.prefetch",
            1: "; where it did not start, its own error above says why: a script that trains does so under "
            "if __name__ == '__main__':",
        }
        return (
            f"data.workers: a process that reads images ended {by} while step {step + 1} waited for {what} of "
            f"{self.pairs.data.name}{causes.get(exit_code, '')}; data.workers 0 reads without other processes"
        )

    def _shown(self, image: Indices) -> str:
        more = f" and {len(image) - _SHOWN} more" if len(image) > _SHOWN else ""
        return f"images {', '.join(map(str, image[:_SHOWN]))}{more}"


class _Order:
    """The sampler of the loader; it remembers what was asked for and has not come yet."""

    def __init__(self) -> None:
        self.asked: deque[RowNumbers] = deque()
        self._requests: Iterator[tuple[int, RowNumbers]] = iter(())

    def start(self, requests: Iterator[tuple[int, RowNumbers]]) -> None:
        self.asked.clear()
        self._requests = requests

    def __iter__(self) -> Iterator[tuple[int, Indices]]:
        for seed, numbers in self._requests:
            self.asked.append(numbers)
            yield seed, numbers.image


def _count_workers(asked: int | None, images: ImageRows) -> int:
    if asked is not None:
        return asked
    return 0 if is_in_memory(images) else min(_WORKERS, available_cores())
