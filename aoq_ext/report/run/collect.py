"""From two finished runs to the report's data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aoq_ext._machine import available_cores, processor_name
from aoq_ext._version import __version__
from aoq_ext.data import ImageTextData
from aoq_ext.metrics import RetrievalRanks, ranks_from_embeddings
from aoq_ext.report.run import gallery
from aoq_ext.report.run.data import MinedImage, ReportData, Round, Split
from aoq_ext.report.words import plural
from aoq_ext.training import History, LoadedRun, OfflineLists, TrainConfig, load_run
from aoq_ext.training.config import to_dict
from aoq_ext.training.pair_sample import PairSample, PairSimilarities
from aoq_ext.training.pairs import load_split
from aoq_ext.training.run import RunFiles

_RESAMPLES = 2000
SPLIT_TITLES = {
    "test": "held-out concepts",
    "test_style": "a held-out drawing style",
    "test_openmoji": "held-out concepts in a held-out style",
}
_LABELS = {"online_triplet": "online triplets", "adaptive_quintuplet": "adaptive offline quintuplets"}


@dataclass(frozen=True)
class _Answers:
    """What one model makes of one split."""

    images: NDArray[np.float32]  # (N, D)
    texts: NDArray[np.float32]  # (M, D)
    metrics: dict[str, float]
    ranks: RetrievalRanks


def collect(
    first: Path, second: Path, lists: OfflineLists, splits: tuple[str, ...], seconds: Mapping[str, float]
) -> ReportData:
    """Evaluate both runs on `splits` and gather everything the report shows.

    Args:
        first, second: folders of finished runs.
        lists: mined by the first run, used by the second.
        splits: names in SPLIT_TITLES; the gallery is drawn from the first.
        seconds: how long each step took.
    """
    runs = (load_run(first), load_run(second))
    config = runs[1].config
    seed = config.seed
    train = load_split(config.data, config.data.train_split)
    sample = PairSample.draw(train, lists.texts, config.offline.top_texts, config.batch_size, seed)
    evaluated = []
    for name in splits:
        data = load_split(config.data, name)
        evaluated.append((name, data, _answer(runs[0], data), _answer(runs[1], data)))
    _, shown, before, after = evaluated[0]
    both = (shown, after.images, after.texts)
    return ReportData(
        dataset=train.name,
        train_images=len(train),
        train_captions=len(train.captions),
        rounds=(
            _round(runs[0], sample.similarities(runs[0], train)),
            _round(runs[1], sample.similarities(runs[1], train)),
        ),
        splits=tuple(_split(*entry, seed) for entry in evaluated),
        mined=_mined(runs[0], train, lists, seed),
        mined_texts_per_image=lists.texts.shape[1],
        mined_images_per_text=lists.images.shape[1],
        image_queries=gallery.image_queries(*both, after.ranks.i2t.numpy(), before.ranks.i2t.numpy(), seed),
        caption_queries=gallery.caption_queries(*both, after.ranks.t2i.numpy(), before.ranks.t2i.numpy(), seed),
        gallery_split=splits[0],
        seconds=dict(seconds),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        machine=machine(),
        versions={
            "aoq_ext": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        seed=seed,
    )


def _answer(run: LoadedRun, data: ImageTextData) -> _Answers:
    images, texts = run.embed_images(data.images).cpu(), run.embed_texts(data.captions).cpu()
    ranks = ranks_from_embeddings([(images, texts)], torch.from_numpy(data.caption_image))
    return _Answers(images.numpy(), texts.numpy(), ranks.metrics(), ranks)


def _split(name: str, data: ImageTextData, before: _Answers, after: _Answers, seed: int) -> Split:
    interval = after.ranks.bootstrap(_RESAMPLES, 0.95, seed, over=before.ranks)["rsum"]
    title = SPLIT_TITLES.get(name, name)
    return Split(name, title, len(data), len(data.captions), before.metrics, after.metrics, interval)


def _round(run: LoadedRun, similarities: PairSimilarities) -> Round:
    epochs = History.load(RunFiles(run.folder).history).epochs
    return Round(
        label=_LABELS.get(run.config.loss.objective, run.config.loss.objective),
        loss=np.array([entry["loss"] for entry in epochs]),
        validation={
            key: np.array([entry["validation"][key] for entry in epochs]) for key in ("rsum", "i2t_r1", "t2i_r1")
        },
        warmup_epochs=run.config.warmup_epochs,
        best_epoch=run.epoch,
        similarities=similarities,
        config=_settings(run.config),
    )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the folders above the demo's own, which say nothing to a reader."""
    lists = None if config.offline.lists is None else Path(config.offline.lists).name
    return to_dict(replace(config, run=Path(config.run).name, offline=replace(config.offline, lists=lists)))


def _mined(run: LoadedRun, train: ImageTextData, lists: OfflineLists, seed: int) -> tuple[MinedImage, ...]:
    examples = gallery.mined_examples(train, lists.texts, seed)
    images = run.embed_images(train.images[[image for image, _ in examples]]).cpu()
    mined = []
    for (image, captions), embedding in zip(examples, images, strict=True):
        texts = run.embed_texts([train.captions_of(image)[0], *(train.captions[caption] for caption in captions)]).cpu()
        scores = (texts @ embedding).numpy()
        mined.append(gallery.mined_image(train, image, float(scores[0]), captions, scores[1:]))
    return tuple(mined)


def machine() -> str:
    """The processor as it calls itself, and how much of it torch uses."""
    cores, threads = available_cores(), torch.get_num_threads()
    return f"{plural(cores, 'CPU core')} ({processor_name()}), {platform.system()}, {plural(threads, 'torch thread')}"
