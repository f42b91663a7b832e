"""Mining the training set with the weights of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aoq_ext._files import visible
from aoq_ext._scalars import as_int
from aoq_ext.lists import MinedFrom, fingerprint_embeddings, mine_to_files
from aoq_ext.lists.manifest import MANIFEST, EarlierFormat, Manifest, OtherProblem
from aoq_ext.mining import mine_hard_negatives
from aoq_ext.mining.captions import token_labels
from aoq_ext.mining.progress import MiningProgress
from aoq_ext.mining.rules import MiningRules
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.config import ConfigError
from aoq_ext.training.encode import EncodedSplit
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.model import Model
from aoq_ext.training.offline import OfflineLists, fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.reranking import rerank as rerank_listed

if TYPE_CHECKING:
    from aoq_ext.data import ImageTextData

ALL_PAIRS = 1 << 20
UNFINISHED = "unfinished"  # work, in the folder of the lists
_RERANK = 4
_Lists = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class MiningOptions(MiningRules):
    """What is listed, with images as the anchors and texts as the candidates, and how the work is done.

    Lists longer than the data set allows are cut to it.
    """

    k: int = 300  # texts for each image
    k_reverse: int | None = 60  # images for each text
    repeated_captions: bool = False  # whether a text that repeats a caption of an image may be its negative
    rerank: int | None = None  # see `mine_model`; None: the run's ``offline.rerank``
    memory_limit: int | None = None
    work: Path | None = None  # a folder that keeps what was done if the process is stopped; removed in the end
    on_progress: Callable[[MiningProgress], None] | None = None


def mine_run(run: str | Path | LoadedRun, k_text: int = 300, k_image: int = 60, **options: Any) -> OfflineLists:
    """The hardest negatives of the training set, both ways, as a run's best weights see it.

    Images of one group, and the captions of those images, are never each other's negatives; nor is, unless the options
    allow it, a text that repeats a caption of an image: that has the same tokens, so that the model reads the same.

    Args:
        run: a run's folder, or the run itself.
        k_text: texts listed for each image; lists longer than the data set allows are cut to it.
        k_image: images listed for each text.
        options: other fields of `MiningOptions`: further rules, and where the work is kept.
    """
    return _mine_loaded(run if isinstance(run, LoadedRun) else load_run(run), MiningOptions(k_text, k_image, **options))


def mine_into(folder: Path, run: LoadedRun, options: MiningOptions) -> OfflineLists:
    """`mine_run` into a folder, which keeps what was done until the lists are there: the same call goes on where it
    was stopped, and begins anew for other weights or rules."""
    options = replace(options, work=folder / UNFINISHED)
    try:
        lists = _mine_loaded(run, options)
    except (OtherProblem, EarlierFormat):
        drop_work(folder)
        lists = _mine_loaded(run, options)
    lists.save(folder)
    drop_work(folder)
    return OfflineLists.load(folder)  # from where they stay


def check_work(folder: Path) -> None:
    """Refuse a folder of lists whose work is not ours: that is removed in the end."""
    work = folder / UNFINISHED
    if work.is_dir() and not (work / MANIFEST).exists() and visible(work, "*"):
        raise FileExistsError(f"out must not hold files of others, got {work} without {MANIFEST}")


def drop_work(folder: Path) -> None:
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _mine_loaded(run: LoadedRun, options: MiningOptions) -> OfflineLists:
    data = load_split(run.config.data, run.config.data.train_split)
    pairs = EncodedPairs(data, run.vocabulary)
    return mine_model(run.model, pairs, _of_run(run, options), str(run.folder), run.epoch)


def problem_of_run(run: LoadedRun, options: MiningOptions) -> dict[str, Any]:
    """What the manifest of `mine_into` will say that the lists are decided by."""
    data = load_split(run.config.data, run.config.data.train_split)
    return _problem(run.model, data, _settled(run.model, data, _of_run(run, options)))


def _of_run(run: LoadedRun, options: MiningOptions) -> MiningOptions:
    return replace(options, rerank=run.config.offline.rerank) if options.rerank is None else options


def mine_model(
    model: Model,
    pairs: EncodedPairs,
    options: MiningOptions | None = None,
    run: str | None = None,
    epoch: int | None = None,
    processes: Processes = ALONE,
) -> OfflineLists:
    """See `mine_run`; ``run`` and ``epoch`` say in the lists where the weights come from.

    A model that matches by scores is too slow to score every pair. ``rerank`` times as many candidates as are wanted
    (4 times by default) are found by the mean of its features, exactly; these it scores, and the hardest are taken:
    what the mean ranks lower is not seen. Of no more than ``ALL_PAIRS`` pairs every one is scored, and the lists are
    exact.

    ``processes``, which all call this with the same weights, share the work, and each gets all lists.
    """
    data = pairs.data
    options = _settled(model, data, options or MiningOptions())
    embeddings = None
    if model.embeds:
        images, texts = EncodedSplit.of(model, pairs, processes, options.work).vectors()  # (N, D), (M, D)
        embeddings = fingerprint_embeddings(images, texts)
        found = _mine(pairs, images, texts, options, processes)
    else:
        found = _mine_by_scores(model, pairs, options, processes)
    problem = _problem(model, data, options)
    return OfflineLists(
        Manifest(problem, MinedFrom(run, epoch, problem["weights"], embeddings)),
        indices=found[0].astype(np.int32, copy=False),
        scores=found[1],
        reverse_indices=found[2].astype(np.int32, copy=False),
        reverse_scores=found[3],
        text_image=pairs.caption_image,
    )


def _settled(model: Model, data: ImageTextData, options: MiningOptions) -> MiningOptions:
    """With lengths that the data set allows, and ``rerank`` where there is any."""
    rerank = None
    if not model.embeds:
        rerank = _RERANK if options.rerank is None else as_int("rerank", options.rerank)
    k_reverse = min(options.k_reverse or options.k, len(data.images))
    return replace(options, k=min(options.k, len(data.captions)), k_reverse=k_reverse, rerank=rerank)


def _problem(model: Model, data: ImageTextData, options: MiningOptions) -> dict[str, Any]:
    """All that decides the lists."""
    return {
        "texts": "candidates",
        "weights": fingerprint_weights(model.state_dict()),
        "data": fingerprint_data(data),
        **options.values(),
        "repeated_captions": options.repeated_captions,
        "rerank": options.rerank,
    }


def _mine_by_scores(model: Model, pairs: EncodedPairs, options: MiningOptions, processes: Processes) -> _Lists:
    for name in ("margin", "relative_margin", "max_score"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name}: expected none for a model that matches by scores, got {getattr(options, name)}")
    split = EncodedSplit.of(model, pairs, processes, options.work)
    images, texts = split.vectors(processes)
    wanted = options.k, options.k_reverse or 1
    every = len(images) * len(texts) <= ALL_PAIRS
    wide = [
        count if every else min(count, (options.rerank or 1) * (k + options.skip))
        for count, k in zip((len(texts), len(images)), wanted, strict=True)
    ]
    near = _mine(pairs, images, texts, replace(options, k=wide[0], k_reverse=wide[1], skip=0), processes)
    listed = torch.from_numpy(near[0].astype(np.int32)), torch.from_numpy(near[2].astype(np.int32))
    found = rerank_listed(split, listed, options.skip, wanted, processes, options.work, options.on_progress)
    return tuple(part.numpy() for part in found)  # type: ignore[return-value]


def _mine(pairs: EncodedPairs, images: Tensor, texts: Tensor, options: MiningOptions, processes: Processes) -> _Lists:
    """Texts (N, k) of each image, their scores, images (M, k_reverse) of each text, their scores."""
    text_image = torch.from_numpy(pairs.caption_image)
    image_groups = torch.from_numpy(pairs.data.group_ids)  # (N,)
    given: dict[str, Any] = {"anchor_ids": image_groups, "candidate_ids": image_groups[text_image]}
    if not options.repeated_captions:
        labels = token_labels(pairs.tokens, pairs.lengths, text_image, len(images))
        given["candidate_labels"], given["anchor_labels"] = labels
    how = {"direction": "both", "memory_limit": options.memory_limit, **options.values()}
    if options.work is not None:
        mined = mine_to_files(images, texts, options.work, **given, **how, on_progress=options.on_progress)
        return mined.texts, mined.text_scores, mined.images, mined.image_scores
    if not processes.alone:
        rows, columns = processes.share(len(images)), processes.share(len(texts))
        images, texts, how["distributed"] = images[rows], texts[columns], True
        for name, part in given.items():
            own = rows if name.startswith("anchor") else columns
            given[name] = _labels_of(part, own) if isinstance(part, tuple) else part[own]
    found = mine_hard_negatives(images, texts, **given, **how, device=images.device)
    assert found.reverse is not None
    lists = (found.indices, found.scores, found.reverse.indices, found.reverse.scores)
    return tuple(processes.gather(part).cpu().numpy() for part in lists)  # type: ignore[return-value]


def _labels_of(labels: tuple[Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor]:
    """The labels of some rows, from (values, offsets)."""
    values, offsets = labels
    own = offsets[rows.start : rows.stop + 1]
    return values[int(own[0]) : int(own[-1])], own - own[0]
