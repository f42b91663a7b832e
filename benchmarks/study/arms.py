"""What is compared with what: settings (data, model, budget), arms (one way to train), questions (groups of arms)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aoq_ext.training import Component, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from aoq_ext.training.config import needs_offline
from aoq_ext.training.cost import PAIRS_ENCODED
from study.data import icons_version
from study.features import CELLS, CHANNELS, make_features

RANDOM = "random"
ENCODING = 1 / 3
"""Encoding the training set once, without gradients, in plain epochs: a backward pass costs two forward passes."""


@dataclass(frozen=True)
class Setting:
    """One data set and one model, and how long they are trained."""

    name: str
    base: TrainConfig  # what every arm shares; its epochs are those of the second round
    early: int  # epochs of a first round that is still gaining
    converged: int  # epochs of a long one, which hardly gains any more
    warmup: int  # epochs with every negative, of all runs from random weights
    test_split: str = "test"
    mined_texts: int = 300  # a mining of fewer is as good as one of more, so that arms share it


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: unique in its setting.
        start: the arm whose best weights it starts from, or RANDOM.
        changes: to the base configuration, by dotted name; ``epochs`` among them.
        lists: the arm whose best weights mine its lists; None: the start, or no lists where it needs none.
        rules: of that mining, as in MiningOptions: skip, relative_margin, ...
        candidates: with a bank (see `bank`), how many stored candidates a pair is given; 0: no bank.
    """

    name: str
    start: str = RANDOM
    changes: Mapping[str, Any] = field(default_factory=dict)
    lists: str | None = None
    rules: Mapping[str, Any] = field(default_factory=dict)
    candidates: int = 0

    def config(self, setting: Setting) -> TrainConfig:
        """Without folders and seed, which belong to a run."""
        config = copy.deepcopy(setting.base)
        changes = {"warmup_epochs": setting.warmup if self.start == RANDOM else 0, **self.changes}
        for name, value in changes.items():
            put(config, name, value)
        return config

    def miner(self, setting: Setting) -> str | None:
        """The arm that mines its lists."""
        config = self.config(setting)
        if not needs_offline(config) or (config.offline.remine_every and self.start == RANDOM):
            return None
        return self.lists or self.start

    def cost(self, setting: Setting) -> float:
        """What its encoders do, in plain epochs (every image and a text of it, forward and backward), mining too."""
        config = self.config(setting)
        trained = config.epochs - config.warmup_epochs
        cost = config.warmup_epochs + trained * PAIRS_ENCODED[config.loss.objective]
        minings = int(self.miner(setting) is not None)
        if self.candidates:
            minings = config.epochs
        elif every := config.offline.remine_every:
            minings = minings + max(0, math.ceil(trained / every) - minings)
        return cost + ENCODING * minings


@dataclass(frozen=True)
class Question:
    title: str
    setting: Setting
    arms: tuple[Arm, ...]
    controls: tuple[str, ...]  # names of arms that the others are compared with
    pairs: tuple[tuple[str, str], ...] = ()  # further comparisons: an arm, and its own control

    def comparisons(self) -> Iterator[tuple[str, str]]:
        """(arm, control); a control is compared with those named before it."""
        paired = {name for pair in self.pairs for name in pair}
        for arm in self.arms:
            if arm.name not in paired and not arm.name.startswith("round1"):
                own = self.controls.index(arm.name) if arm.name in self.controls else None
                yield from ((arm.name, control) for control in self.controls[:own])
        yield from self.pairs


def put(config: Any, name: str, value: Any) -> None:
    """Set an entry by its dotted name; AttributeError where there is none."""
    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part)
    if not hasattr(config, last):
        raise AttributeError(f"{name}: the configuration has no such entry")
    setattr(config, last, value)


LADDER: dict[str, dict[str, Any]] = {
    "online": {},
    "triplet": {"loss.objective": "offline_triplet"},
    "quintuplet": {"loss.objective": "offline_quintuplet"},
    "attached": {"loss.objective": "adaptive_quintuplet"},
    "detached": {"loss.objective": "adaptive_quintuplet", "loss.detach_weight": True},
}


def depth(texts: int) -> dict[str, int]:
    """Lists of so many texts, and of a fifth as many images."""
    return {"offline.top_texts": texts, "offline.top_images": max(1, texts // 5)}


def first_round(setting: Setting, which: str) -> Arm:
    return Arm(f"round1-{which}", RANDOM, {"epochs": getattr(setting, which)})


def after(which: str, objective: str, suffix: str = "", rules: Mapping[str, Any] | None = None, **changes: Any) -> Arm:
    """A second round; ``changes`` by dotted name, with two underscores for the dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    name = "-".join(part for part in (which, objective, suffix) if part)
    return Arm(name, f"round1-{which}", {**LADDER[objective], **named}, rules=rules or {})


def ladder(setting: Setting, which: str) -> tuple[Arm, ...]:
    """The objectives after one first round, and plain training with as many steps, as much encoding, larger batches."""
    base = setting.base
    return (
        first_round(setting, which),
        *(after(which, objective) for objective in LADDER),
        after(which, "online", "long", epochs=3 * base.epochs),
        after(which, "online", "wide", batch_size=3 * base.batch_size, epochs=3 * base.epochs),
    )


def from_random(setting: Setting) -> tuple[Arm, ...]:
    epochs = setting.early + setting.base.epochs
    arms = (
        Arm(f"random-{name}", RANDOM, {**changes, "epochs": epochs}, None if name == "online" else "round1-early")
        for name, changes in LADDER.items()
    )
    return (first_round(setting, "early"), *arms)


def soon(setting: Setting) -> tuple[Arm, ...]:
    """From random weights, hardest and offline negatives after one epoch with every negative."""
    short = {"warmup_epochs": min(1, setting.warmup), "epochs": setting.warmup}
    arms = (
        Arm(f"soon-{name}", RANDOM, {**LADDER[name], **short}, None if name == "online" else "round1-early")
        for name in ("online", "attached", "detached")
    )
    return (first_round(setting, "early"), *arms)


def batch_arm(setting: Setting, objective: str, size: int) -> Arm:
    """The learning rate goes with the root of the batch size."""
    if size == setting.base.batch_size:
        return after("early", objective)
    rate = setting.base.optimizer.lr * math.sqrt(size / setting.base.batch_size)
    return after("early", objective, f"b{size}", batch_size=size, optimizer__lr=rate)


def questions(scale: str, work: Path) -> dict[str, Question]:
    """By letter, as the command names them. Scales: see `settings`."""
    plain, attention = settings(scale, work)
    first, online, detached = first_round(plain, "early"), after("early", "online"), after("early", "detached")
    sizes = (8, 16, 32) if scale == "tiny" else (32, 128, 512)
    banks = (replace(online, name=f"early-bank-k{count}", candidates=count) for count in (1, 4))
    shares = (0.25, 0.5)
    hard = (
        after("early", objective, f"hard{share:g}", offline__batch_share=share)
        for objective in ("online", "detached")
        for share in shares
    )
    usual = plain.base.offline.top_texts
    depths = (after("early", "detached", f"top{top}", None, **_named(depth(top))) for top in (30, 100, 1000))
    skips = (after("early", "detached", f"skip{skip}", {"skip": skip}) for skip in (5, 20))
    margin = after("early", "detached", "margin0.05", {"relative_margin": 0.05})
    remined = after("early", "detached", "remined", offline__remine_every=1)
    start = (first, online, detached)
    long = tuple(f"early-online{suffix}" for suffix in ("", "-long", "-wide"))
    sized = tuple((batch_arm(plain, "detached", size), batch_arm(plain, "online", size)) for size in sizes)
    return {
        "a": Question("The ladder, after an early first round", plain, ladder(plain, "early"), long),
        "b": Question(
            "The ladder, after a long first round",
            plain,
            ladder(plain, "converged"),
            tuple(name.replace("early", "converged") for name in long),
        ),
        "c": Question("The ladder, from random weights", plain, from_random(plain), ("random-online",)),
        "d": Question(
            "Batch size",
            plain,
            (first, *(arm for pair in sized for arm in pair)),
            (),
            tuple((ours.name, theirs.name) for ours, theirs in sized),
        ),
        "e": Question(f"Depth of the lists ({usual} texts without a name)", plain, (*start, *depths), (online.name,)),
        "f": Question("Rules of mining (none without a name)", plain, (*start, *skips, margin), (online.name,)),
        "g": Question("Mining again after every epoch", plain, (*start, remined), (online.name, detached.name)),
        "h": Question("Batches of hard negatives", plain, (*start, *hard), (online.name, detached.name)),
        "i": Question(
            "Cross attention (SCAN), after an early first round",
            attention,
            (first_round(attention, "early"), online, after("early", "attached"), detached),
            (online.name,),
        ),
        "k": Question("From random weights, with a short warm-up", plain, soon(plain), ("soon-online",)),
        "j": Question("Stored negatives, without encoding them", plain, (*start, *banks), (online.name, detached.name)),
    }


def _named(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "__"): value for name, value in changes.items()}


def settings(scale: str, work: Path) -> tuple[Setting, Setting]:
    """Embeddings, and cross attention. work: the folder that has what `prepare` made.

    tiny: made-up patterns, seconds. features: fixed features of 24,000 icons (`study.features`), as the paper's models
    read fixed features. icons: all of them, through convolutions that are trained with the rest; 20,000 for attention.
    """
    embeddings, attention = {"tiny": _tiny, "features": _features, "icons": _icons}[scale]()
    if scale == "features":
        for base in (embeddings[0], attention[0]):
            base.data.root = str(_features_in(work))
    plain = Setting(f"embeddings-{scale}", *embeddings)
    return plain, Setting(f"scan-{scale}", *attention)


def prepare(scale: str, work: Path) -> None:
    """What the settings of a scale need before anything is trained."""
    if scale == "features":
        make_features(_features_in(work))


def _features_in(work: Path) -> Path:
    return work / f"features-{icons_version()}"


def _base(loader: str, arguments: dict[str, Any], image: Component, dim: int, batch_size: int) -> TrainConfig:
    text = Component("aoq_ext.encoders.GRUEncoder", {"dim": dim, "word_dim": dim // 2, "hidden": dim})
    return TrainConfig(
        batch_size=batch_size,
        log_every=50,
        checkpoint_every=1_000_000,
        on_collapse="warn",  # a collapsed run is a result too
        accelerator="cpu",
        data=DataConfig("study.data.load", args={"loader": loader, **arguments}, validation_split=None, workers=0),
        model=ModelConfig(image, text),
        optimizer=OptimizerConfig(lr=1e-3),
    )


def _scan(base: TrainConfig, dim: int, image_dim: int, backbone: Component | None, **arguments: Any) -> TrainConfig:
    given = {"image_dim": image_dim, "dim": dim, "word_dim": dim, "direction": "t2i"}
    model = ModelConfig(backbone=backbone, matching=Component("aoq_ext.encoders.SCAN", given))
    return replace(base, model=model, data=replace(base.data, args=base.data.args | arguments))


def _tiny() -> tuple[tuple[TrainConfig, int, int, int], ...]:
    seen = {"channels": [8], "geometry": 0.1}
    image = Component("aoq_ext.encoders.ConvEncoder", {"dim": 16, "image_size": 8, **seen})
    base = replace(_base("study.data.load_patterns", {}, image, 16, 16), epochs=1)
    base.data.min_count = 1
    scan = _scan(base, 16, 10, Component("aoq_ext.encoders.GridBackbone", seen))
    return (base, 1, 2, 1), (scan, 1, 2, 0)


def _features() -> tuple[tuple[TrainConfig, int, int, int], ...]:
    cells, channels = CELLS, CHANNELS[-1]
    image = Component("aoq_ext.encoders.GlobalImageEncoder", {"image_dim": cells * channels, "dim": 128})
    base = replace(_base("study.features.load_features", {"images": 24_000}, image, 128, 128), epochs=3)
    base.data.min_count = 2
    base.optimizer.lr = 2e-3
    base.offline.top_texts, base.offline.top_images = 60, 12
    scan = replace(_scan(base, 64, channels, None, regions=True), epochs=1)
    return (base, 12, 40, 6), (scan, 8, 20, 4)


def _icons() -> tuple[tuple[TrainConfig, int, int, int], ...]:
    seen = {"channels": [32, 64, 128], "in_channels": 1}
    image = Component("aoq_ext.encoders.ConvEncoder", {"dim": 256, **seen})
    base = replace(_base("aoq_ext.data.load_icons", {}, image, 256, 128), epochs=2)
    scan = _scan(base, 128, 130, Component("aoq_ext.encoders.GridBackbone", seen), images=20_000)
    return (base, 8, 24, 2), (scan, 3, 10, 1)
