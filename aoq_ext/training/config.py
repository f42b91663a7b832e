"""What a training run is told: plain dataclasses, whose defaults are the first round on the bundled data."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from aoq_ext._files import expanded
from aoq_ext._scalars import as_int

ObjectiveName = Literal["online_triplet", "offline_triplet", "offline_quintuplet", "adaptive_quintuplet"]


class ConfigError(ValueError):
    """A configuration that cannot work; the message names the entry, what was expected and what came."""


@dataclass
class _Entries:
    """Base of the parts: ``~`` is the home folder, also in arguments that are passed on; whole numbers become int."""

    def __post_init__(self) -> None:
        for entry in fields(self):  # type: ignore[arg-type]
            value = expanded(getattr(self, entry.name))
            if value is not None and str(entry.type).partition(" ")[0] == "int":  # annotations are strings here
                value = as_int(entry.name, value)
            setattr(self, entry.name, value)


@dataclass
class Component(_Entries):
    """A class or function by its dotted path, and the arguments it is called with."""

    factory: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig(_Entries):
    """Where the pairs come from."""

    loader: str = "aoq_ext.data.load_icons"
    """Dotted path of a function (split, root=...) -> ImageTextData."""
    root: str | None = None
    """The folder with the data; null: the one in the package."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the loader, the same for every split."""
    train_split: str = "train"
    validation_split: str | None = "val"
    """Evaluated after each epoch to choose the best weights; null: the last are the best."""
    smoothing: int = 1
    """The best epoch is that with the highest validation rsum, averaged over this many epochs up to it."""
    tokenizer: Component | None = None
    """What turns captions into tokens, an aoq_ext.data.Tokenizer (aoq_ext.data.read_vocabulary for a released one).
    null: the words of the training captions."""
    min_count: int = 2
    """Words seen fewer times in the training captions become the unknown word. A tokenizer has its own."""
    workers: int | None = None
    """Processes that read images ahead of the step that needs them; 0: they are read when it comes to them. null: 2, or
    0 for images in memory, of which each process would need a copy."""
    prefetch: int = 2
    """Batches that each of them reads ahead."""


@dataclass
class ModelConfig:
    """The two encoders, or a model that is both. What reads words is also given vocabulary_size."""

    image_encoder: Component = field(
        default_factory=lambda: Component("aoq_ext.encoders.ConvEncoder", {"dim": 256, "in_channels": 1, "colour": 0.0})
    )
    text_encoder: Component = field(
        default_factory=lambda: Component("aoq_ext.encoders.GRUEncoder", {"dim": 256, "hidden": 256})
    )
    backbone: Component | None = None
    """What makes region features (B, R, F) of images for the image encoder, and is trained with it
    (aoq_ext.encoders.GridBackbone). null: images are encoded as they come."""
    matching: Component | None = None
    """In place of the two encoders, an aoq_ext.encoders.MatchingModel, which may score pairs by anything but a dot
    product (aoq_ext.encoders.SCAN and BFAN). null: the two encoders."""
    auxiliary: Component | None = None
    """A loss of an image's regions and its caption, added to the other (aoq_ext.encoders.CaptioningLoss, with
    aoq_ext.encoders.VSRNEncoder as the image encoder, or a model that scores regions). null: none."""
    auxiliary_weight: float = 1.0
    """What that loss, a mean over the batch, is multiplied with before it is added to the other, a sum."""


@dataclass
class LossConfig:
    """The arguments of aoq_ext.AdaptiveQuintupletLoss."""

    objective: ObjectiveName = "online_triplet"
    margin_online: float = 0.2
    margin_offline: float = 0.0
    alpha: float = 0.3
    beta: float = 1.5
    detach_weight: bool = False
    clamp_weight: bool = False


@dataclass
class OfflineConfig(_Entries):
    """The mined lists, for the objectives that use them."""

    lists: str | None = None
    """The folder that `aoq mine` wrote."""
    top_texts: int = 300
    """A hard text is drawn from this many of the hardest of each image..."""
    top_images: int = 60
    """...and a hard image from this many of the hardest of each text."""
    remine_every: int | None = None
    """Epochs after which the training set is mined again with the weights of that moment, from the first epoch with
    offline terms on; lists, where given, serve until the first time. null: lists serve to the end, as in the paper."""
    batch_share: float = 0.0
    """Share of each batch, after the warm-up, that are the owners of mined negatives of the rest, so that online
    negatives of every objective are mined ones too (aoq_ext.HardNegativeBatchSampler). 0: none, as in the paper."""
    rerank: int = 4
    """For a model that matches by scores: so many times the wanted negatives are found by the mean of its features, and
    the hardest of those by its scores taken."""
    stale_after: int | None = None
    """Warn when the lists are of weights this many epochs behind, or of another run; null: never."""


@dataclass
class OptimizerConfig:
    """Adam and its learning rate."""

    lr: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float = 2.0
    """Gradients longer than this are shortened to it."""
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    """step: a tenth of lr from drop_at on. cosine: from lr down to nearly zero."""
    drop_at: float = 0.5
    """Where the step schedule drops, as a fraction of the run."""


@dataclass
class TrainConfig(_Entries):
    """One training run."""

    run: str = "runs/round1"
    """The folder that receives everything the run writes."""
    init: str | None = None
    """The folder of another run, whose best weights and whose vocabulary this one starts from, with a fresh optimizer.
    Its model entries and its data.tokenizer must be these. null: random weights."""
    seed: int = 0
    epochs: int = 8
    """An epoch shows every image once, each with one of its captions drawn at random."""
    batch_size: int = 128
    """Pairs whose loss is computed together: each is a negative of the others. The share of every process adds up to
    it."""
    micro_batch: int | None = None
    """Rows (images, and as many texts) that are encoded at a time where a batch does not fit into memory. The gradient
    is still that of the whole batch, for a second pass through the encoders, except that layers which normalise over
    the batch see a micro-batch. null: all at once."""
    accumulate: int = 1
    """Batches whose gradients are added up for one step. Negatives come from each batch alone, so this is not a larger
    batch."""
    warmup_epochs: int = 4
    """Epochs at the start with every negative (online="all", no offline terms), so that the model does not collapse."""
    log_every: int = 10
    """Steps between two measurements of the loss terms."""
    checkpoint_every: int = 100
    """Steps between two checkpoints, besides the one after each epoch."""
    on_collapse: Literal["warn", "stop"] = "stop"
    collapse_patience: int = 15
    """Collapsed measurements in a row (one every log_every steps) before it is called a collapse."""
    accelerator: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """In which the encoders compute; scores and the loss are float32. 16-mixed scales the loss against underflow."""
    threads: int | None = None
    """CPU threads; null: as torch chooses. A resumed run repeats bit for bit only with the same number."""
    process_timeout: int = 1800
    """Seconds that processes started by torchrun wait for one another before they give up."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


# What may differ between a run and its resumption: where and how it is carried out, not what it computes. Of data and
# lists the checkpoint has fingerprints, so that they may move.
_MAY_CHANGE = (
    "run",
    "data.root",
    "data.workers",
    "data.prefetch",
    "offline.lists",
    "checkpoint_every",
    "on_collapse",
    "collapse_patience",
    "accelerator",
    "threads",
    "process_timeout",
    "offline.stale_after",
)


def check(config: TrainConfig) -> None:
    """Refuse values that cannot work, before any work is done."""
    if not str(config.run).strip():
        raise ConfigError(f"run: expected a folder, got {config.run!r}")
    if config.init is not None and not str(config.init).strip():
        raise ConfigError(f"init: expected the folder of a run or null, got {config.init!r}")
    _check_numbers(config)
    _check_counts_or_null(config)
    if config.batch_size < 2:
        raise ConfigError(
            f"batch_size: expected at least 2, since a pair alone has no negatives, got {config.batch_size}"
        )
    if not 0 <= config.warmup_epochs <= config.epochs:
        raise ConfigError(
            f"warmup_epochs: expected a number from 0 to epochs ({config.epochs}), got {config.warmup_epochs}"
        )
    if not 0 <= config.seed < 2**63:
        raise ConfigError(f"seed: expected a number from 0 to 2**63 - 1, got {config.seed}")
    if not 0 <= config.offline.batch_share < 1:
        raise ConfigError(f"offline.batch_share: expected a fraction in [0, 1), got {config.offline.batch_share}")
    if not 0 < config.optimizer.drop_at <= 1:
        raise ConfigError(f"optimizer.drop_at: expected a fraction in (0, 1], got {config.optimizer.drop_at}")
    if config.data.tokenizer is not None and config.data.min_count not in (1, DataConfig.min_count):
        raise ConfigError(
            f"data.min_count: expected 1 with data.tokenizer, which has its own words, got {config.data.min_count}"
        )
    if needs_offline(config) and config.offline.lists is None and config.offline.remine_every is None:
        raise ConfigError(
            f"offline.lists: expected the folder that `aoq mine` wrote, which {_needing_offline(config)} needs, "
            f"got null; or set offline.remine_every to mine while training"
        )


def _check_numbers(config: TrainConfig) -> None:
    positive = {
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "accumulate": config.accumulate,
        "log_every": config.log_every,
        "checkpoint_every": config.checkpoint_every,
        "collapse_patience": config.collapse_patience,
        "process_timeout": config.process_timeout,
        "data.smoothing": config.data.smoothing,
        "data.min_count": config.data.min_count,
        "data.prefetch": config.data.prefetch,
        "offline.top_texts": config.offline.top_texts,
        "offline.top_images": config.offline.top_images,
        "offline.rerank": config.offline.rerank,
        "optimizer.lr": config.optimizer.lr,
        "optimizer.clip_norm": config.optimizer.clip_norm,
        "loss.alpha": config.loss.alpha,
    }
    for name, value in positive.items():
        if not value > 0 or not math.isfinite(value):
            raise ConfigError(f"{name}: expected a positive number, got {value}")
    finite = {
        "loss.margin_online": config.loss.margin_online,
        "loss.margin_offline": config.loss.margin_offline,
        "loss.beta": config.loss.beta,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "model.auxiliary_weight": config.model.auxiliary_weight,
    }
    for name, value in finite.items():
        if not math.isfinite(value):
            raise ConfigError(f"{name}: expected a finite number, got {value}")
    for name in ("optimizer.weight_decay", "model.auxiliary_weight"):
        if finite[name] < 0:
            raise ConfigError(f"{name}: expected 0 or more, got {finite[name]}")


def _check_counts_or_null(config: TrainConfig) -> None:
    if config.threads is not None and config.threads < 1:
        raise ConfigError(f"threads: expected a positive number or null, got {config.threads}")
    if config.data.workers is not None and config.data.workers < 0:
        raise ConfigError(f"data.workers: expected 0 or more processes or null, got {config.data.workers}")
    if config.micro_batch is not None and config.micro_batch < 1:
        raise ConfigError(f"micro_batch: expected a positive number of rows or null, got {config.micro_batch}")
    if config.offline.remine_every is not None and config.offline.remine_every < 1:
        raise ConfigError(
            f"offline.remine_every: expected a positive number of epochs or null, got {config.offline.remine_every}"
        )
    if config.offline.stale_after is not None and config.offline.stale_after < 0:
        raise ConfigError(f"offline.stale_after: expected 0 or more epochs or null, got {config.offline.stale_after}")


def needs_offline(config: TrainConfig) -> bool:
    return _needing_offline(config) is not None and config.warmup_epochs < config.epochs


def _needing_offline(config: TrainConfig) -> str | None:
    """What there is in the configuration that uses mined lists."""
    if config.loss.objective != "online_triplet":
        return f"the objective {config.loss.objective!r}"
    return "offline.batch_share" if config.offline.batch_share else None


def mined_at(config: TrainConfig, epoch: int) -> int | None:
    """How many epochs the weights have seen that mine the lists of ``epoch`` (from 0); None: ``offline.lists``."""
    every = config.offline.remine_every
    if every is None:
        return None
    since = epoch - config.warmup_epochs
    if since < every and config.offline.lists is not None:
        return None
    return config.warmup_epochs + since // every * every


def check_same_run(config: dict[str, Any], stored: dict[str, Any]) -> None:
    """Refuse to resume a run under a configuration that would compute something else."""
    known = _flatten(to_dict(TrainConfig()))  # an entry that a run was started without had its default
    new, old = known | _flatten(config), known | _flatten(stored)
    for name in sorted(new.keys() | old.keys()):
        if (
            name not in _MAY_CHANGE
            and new.get(name) != old.get(name)
            and not _moved(name, old.get(name), new.get(name))
        ):
            raise ConfigError(
                f"{name}: the run to resume was started with {old.get(name)!r}, got {new.get(name)!r}; "
                f"use the same configuration, or another `run` folder without --resume"
            )


def _moved(name: str, before: Any, after: Any) -> bool:
    """Whether two arguments of the loader or the tokenizer may be one file in two places; what it holds has a hash.
    So have the weights in ``init``, whose folder may have any name.
    """
    if name == "init":
        return isinstance(before, str) and isinstance(after, str)
    names = [os.path.basename(path) for path in (before, after) if isinstance(path, str)]
    return name.startswith(("data.args.", "data.tokenizer.args.")) and len(names) == 2 and names[0] == names[1] != ""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    return asdict(config)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
