"""The page about what ``aoq mine`` found."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aoq_ext._sources import Source
from aoq_ext.lists import MinedLists
from aoq_ext.lists.manifest import MANIFEST
from aoq_ext.mining.embeddings import Embeddings
from aoq_ext.mining.rules import positive_scores
from aoq_ext.mining.statistics import MiningRecord, RankedLists
from aoq_ext.report.mined import write_mining_report

if TYPE_CHECKING:
    from torch import Tensor

    from aoq_ext.training.load import LoadedRun
    from aoq_ext.training.offline import OfflineLists

Earlier = tuple[RankedLists | None, RankedLists | None]  # of images and of texts

_RULES = {
    "skip": "the {} hardest of every list were left out",
    "margin": "negatives score at most the best own score less {}",
    "relative_margin": "negatives score at most the best own score less {} of its size",
    "max_score": "negatives score at most {}",
}

_REPEATED = "Texts that repeat a caption of an image are none of its negatives, nor is it one of theirs."


def report_on_files(
    path: Path,
    mined: MinedLists,
    anchors: Source,  # (N, D)
    candidates: Source,  # (M, D)
    arguments: dict[str, Any],  # of `mine_to_files`
    texts: str,
    captions: list[str] | None,
    text_images: Tensor | None,
    earlier: Earlier | None,
    seconds: float,
) -> None:
    """Write the page; texts: ``"anchors"`` or ``"candidates"``, whichever are the texts."""
    swapped = texts == "anchors"
    forward, backward = _lists(mined.indices, mined.scores), _lists(mined.reverse_indices, mined.reverse_scores)
    positive: tuple[Tensor, Tensor] | None = None
    if arguments.get("anchor_ids") is not None:
        sides = Embeddings(anchors, arguments["anchor_ids"]), Embeddings(candidates, arguments["candidate_ids"])
        positive = positive_scores(*sides)
    of_images, of_texts = (backward, forward) if swapped else (forward, backward)
    assert of_images is not None
    own = None if positive is None else [scores.numpy() for scores in (positive[::-1] if swapped else positive)]
    before = earlier or (None, None)
    excluded = _by_the_rules(arguments)
    if own is not None:
        excluded.append("What has the anchor's id is none of its negatives.")
    if arguments.get("anchor_labels") is not None:
        excluded.append(_REPEATED)
    data = MiningRecord(
        title=f"Hard negatives of {(mined.folder or path).name}",
        texts=of_images,
        text_count=(anchors if swapped else candidates).shape[0],
        images=of_texts,
        image_positive=None if own is None else own[0],
        text_positive=None if own is None else own[1],
        text_image_index=None if text_images is None else text_images.numpy(),
        captions=captions,
        earlier=before[0],
        earlier_images=before[1],
        seconds={"mining": seconds},
        excluded=excluded,
        facts={
            "scores": f"{anchors.shape[0] * candidates.shape[0]:,}, all of them, exactly",
            "embeddings": f"{anchors.shape[1]} dimensions, {str(anchors.dtype).removeprefix('torch.')}",
        },
        date=datetime.date.today().isoformat(),
    )
    write_mining_report(data, path)


def report_on_run(
    path: Path,
    loaded: LoadedRun,
    lists: OfflineLists,
    rules: dict[str, Any],  # `MiningOptions` by name
    earlier: Earlier | None,
    seconds: float,
) -> None:
    from aoq_ext.training.pairs import load_split

    data = load_split(loaded.config.data, loaded.config.data.train_split)
    images, texts = loaded.embed_images(data.images), loaded.embed_texts(data.captions)
    text_images = torch.from_numpy(data.caption_image)
    own = positive_scores(_embeddings(images, torch.arange(len(images), device="cpu")), _embeddings(texts, text_images))
    before = earlier or (None, None)
    of_images, of_texts = _lists(lists.texts, lists.text_scores), _lists(lists.images, lists.image_scores)
    assert of_images is not None
    pixels = data.images.dtype.name == "uint8" and data.images.ndim == 4
    excluded = ["Images of one group, and their captions, are none of each other's negatives.", *_by_the_rules(rules)]
    if not rules["repeated_captions"]:
        excluded.append(_REPEATED)
    page = MiningRecord(
        title=f"Hard negatives of {data.name}",
        texts=of_images,
        text_count=len(data.captions),
        images=of_texts,
        image_positive=own[0].numpy(),
        text_positive=own[1].numpy(),
        text_image_index=data.caption_image,
        captions=data.captions,
        image_names=data.image_names,
        picture=(lambda number: data.images[number]) if pixels else None,
        earlier=before[0],
        earlier_images=before[1],
        seconds={"mining": seconds},
        excluded=excluded,
        facts={
            "model": f"{loaded.folder}, the {loaded.which} weights, of epoch {loaded.epoch}",
            "scores": f"{len(images) * len(texts):,}, all of them, exactly",
        },
        date=datetime.date.today().isoformat(),
    )
    write_mining_report(page, path)


def _by_the_rules(given: dict[str, Any]) -> list[str]:
    rules = [
        text.format(given[name])
        for name, text in _RULES.items()
        if given.get(name) is not None and (name != "skip" or given[name])
    ]
    return [f"By the rules, {rule}." for rule in rules]


def _embeddings(rows: Tensor, ids: Tensor) -> Embeddings:
    from aoq_ext._sources import TensorSource

    return Embeddings(TensorSource(rows.cpu()), ids)


def _lists(indices: Any, scores: Any) -> RankedLists | None:
    return None if indices is None else RankedLists(indices, scores)


def open_earlier(folder: Path, images: int, texts: int) -> Earlier:
    """Earlier lists of so many images and texts, mined between files or of a training set."""
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(f"earlier must be a folder of mined lists, got {folder} without {MANIFEST}")
    try:
        mined = MinedLists.load(folder)
    except (ValueError, OSError) as error:
        raise ValueError(f"earlier must be a folder of mined lists, got {folder}: {error}") from error
    lists = _lists(mined.indices, mined.scores), _lists(mined.reverse_indices, mined.reverse_scores)
    if mined.problem["texts"] == "anchors":
        lists = lists[::-1]
    for side, count, what in zip(lists, (images, texts), ("images", "texts")):
        if side is not None and len(side.indices) != count:
            raise ValueError(f"earlier must be lists of the same {count} {what}, got {folder} of {len(side.indices)}")
    return lists
