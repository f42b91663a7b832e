"""From finished runs to the report's data."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aoq_ext._machine import available_cores, processor_name
from aoq_ext._version import __version__
from aoq_ext.data import ImageTextData
from aoq_ext.metrics import ranks_from_embeddings
from aoq_ext.report.run import gallery
from aoq_ext.report.run.data import FROM_NOTHING, MinedImage, ReportData, Round, Split
from aoq_ext.report.words import plural
from aoq_ext.training import History, LoadedRun, OfflineLists, TrainConfig, load_run
from aoq_ext.training.config import to_dict
from aoq_ext.training.cost import pairs_encoded
from aoq_ext.training.pair_sample import PairSample, PairSimilarities
from aoq_ext.training.pairs import load_split
from aoq_ext.training.recipe import compared_with
from aoq_ext.training.run import RunFiles

_RESAMPLES = 2000
SPLIT_TITLES = {
    "test": "unseen names",
    "test_things": "unseen things",
    "test_iconoir": "an unseen set (Iconoir)",
    "test_healthicons": "an unseen set (Health Icons)",
}
_LABELS = {"online_triplet": "online triplets", "adaptive_quintuplet": "adaptive offline quintuplets"}


def collect(
    runs: Mapping[str, Path], lists: OfflineLists, splits: tuple[str, ...], seconds: Mapping[str, float]
) -> ReportData:
    """Evaluate the runs on `splits` and gather everything the report shows.

    Args:
        runs: folders of finished runs: round 1, round 2 and, where there is one, control.
        lists: mined by round 1, used by round 2.
        splits: names in SPLIT_TITLES; the gallery is drawn from the first.
        seconds: how long each step took.
    """
    loaded = {name: load_run(folder) for name, folder in runs.items()}
    names = {folder: name for name, folder in runs.items()}
    config = loaded["round 2"].config
    seed = config.seed
    train = load_split(config.data, config.data.train_split)
    sample = PairSample.draw(train, lists.texts, config.offline.top_texts, config.batch_size, seed)
    sets = {name: load_split(config.data, name) for name in splits}
    answers = {name: {step: _answer(run, data) for step, run in loaded.items()} for name, data in sets.items()}
    shown, of_shown = sets[splits[0]], answers[splits[0]]
    after, before = of_shown["round 2"], of_shown[compared_with(of_shown)]
    return ReportData(
        dataset=train.name,
        train_images=len(train),
        train_captions=len(train.captions),
        runs={name: _round(run, sample.similarities(run, train), len(train), names) for name, run in loaded.items()},
        splits=tuple(_split(name, data, answers[name], seed) for name, data in sets.items()),
        mined=_mined(loaded["round 1"], train, lists, seed),
        mined_texts_per_image=lists.texts.shape[1],
        mined_images_per_text=lists.images.shape[1],
        image_queries=gallery.image_queries(shown, after, before, seed),
        caption_queries=gallery.caption_queries(shown, after, before, seed),
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


def _answer(run: LoadedRun, data: ImageTextData) -> gallery.Answers:
    images, texts = run.embed_images(data.images).cpu(), run.embed_texts(data.captions).cpu()
    ranks = ranks_from_embeddings([(images, texts)], torch.from_numpy(data.caption_image))
    return gallery.Answers(images.numpy(), texts.numpy(), ranks)


def _split(name: str, data: ImageTextData, answers: Mapping[str, gallery.Answers], seed: int) -> Split:
    after, before = answers["round 2"].ranks, answers[compared_with(answers)].ranks
    intervals = after.bootstrap(_RESAMPLES, 0.95, seed, over=before)
    metrics = {run: given.ranks.metrics() for run, given in answers.items()}
    return Split(name, SPLIT_TITLES.get(name, name), len(data), len(data.captions), metrics, intervals)


def _round(run: LoadedRun, similarities: PairSimilarities, images: int, names: Mapping[Path, str]) -> Round:
    """images: of the training set; names: of the runs, by folder"""
    epochs = History.load(RunFiles(run.folder).history).epochs
    config = run.config
    start = FROM_NOTHING if config.init is None else names.get(Path(config.init), Path(config.init).name)
    return Round(
        label=_LABELS.get(config.loss.objective, config.loss.objective),
        start=start,
        pairs=np.array([pairs_encoded(config, images, entry["step"]) for entry in epochs]),
        loss=np.array([entry["loss"] for entry in epochs]),
        validation={
            key: np.array([entry["validation"][key] for entry in epochs]) for key in ("rsum", "i2t_r1", "t2i_r1")
        },
        warmup_epochs=config.warmup_epochs,
        best_epoch=run.epoch,
        similarities=similarities,
        config=_settings(config),
    )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The configuration without the folders above the demo's own, which say nothing to a reader."""
    lists, init = (None if path is None else Path(path).name for path in (config.offline.lists, config.init))
    return to_dict(replace(config, run=Path(config.run).name, init=init, offline=replace(config.offline, lists=lists)))


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
