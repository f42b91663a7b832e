"""The files of a run's folder, which the report reads too."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from aoq_ext._files import expanded, locked, remove_temporaries, write_bytes_atomically
from aoq_ext.data import Tokenizer, Vocabulary
from aoq_ext.training.config import ConfigError, TrainConfig, to_dict


class RunFiles:
    """Where a run keeps what it writes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder: Path = expanded(Path(folder))
        self.config = self.folder / "config.yaml"
        self.vocabulary = self.folder / "vocabulary.json"  # where the tokens are words
        self.history = self.folder / "history.json"
        self.last = self.folder / "last.ckpt"  # everything needed to go on
        self.best = self.folder / "best.ckpt"  # the weights of the best epoch, as `History.best_epoch` has it
        self.negatives = self.folder / "negatives"  # the lists of the last re-mining, in `mined_lists(epoch)`
        self.miner = self.folder / "miner.ckpt"  # the weights that mined them
        self.metrics = self.folder / "metrics.json"  # {split: result of evaluate_run}
        self.tensorboard = self.folder / "tensorboard"
        self.lock = self.folder / ".lock"  # held by the process that trains

    def mined_lists(self, epoch: int) -> Path:
        """Where lists are that were mined with weights which had seen ``epoch`` epochs."""
        return self.negatives / f"epoch-{epoch:03}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training into the folder; the system lets go when this one dies."""
        with locked(self.lock, ConfigError(f"run: {self.folder} is being trained by another process")):
            yield

    def write_start(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        """What is known before the first step; the remains of a killed run's half-written files go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in (self.config, self.vocabulary, self.history, self.last, self.best, self.miner):
            remove_temporaries(self.folder, path.name)
        for half in self.negatives.glob(".epoch-*.tmp"):
            shutil.rmtree(half, ignore_errors=True)
        self.write_config(config)
        if isinstance(tokenizer, Vocabulary):
            tokenizer.save(self.vocabulary)
        else:
            self.vocabulary.unlink(missing_ok=True)  # of a run that was killed before its first checkpoint

    def write_config(self, config: TrainConfig) -> None:
        text = io.StringIO()
        yaml.safe_dump(_plain(to_dict(config)), text, sort_keys=False)
        write_bytes_atomically(self.config, text.getvalue().encode())


def _plain(value: object) -> object:
    """Tuples and paths as YAML knows them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
