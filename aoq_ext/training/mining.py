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

from aoq_ext._scalars import as_int
from aoq_ext.lists.manifest import Manifest, MinedFrom, OtherProblem, fingerprint_embeddings
from aoq_ext.mining import mine_hard_negatives, mine_to_files
from aoq_ext.mining.captions import token_labels
from aoq_ext.mining.progress import MiningProgress
from aoq_ext.parallel import ALONE, Processes
from aoq_ext.training.config import ConfigError
from aoq_ext.training.embed import embed_images, embed_texts
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.model import DualEncoder, ScoringModel
from aoq_ext.training.offline import OfflineLists, fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import EncodedPairs, load_split
from aoq_ext.training.reranking import rerank as rerank_listed
from aoq_ext.training.scoring import ScoredSplit, pooled

if TYPE_CHECKING:
    from aoq_ext.data import ImageTextData

ALL_PAIRS = 1 << 20
UNFINISHED = "unfinished"  # work, in the folder of the lists
_RULES = ("skip", "margin", "relative_margin", "max_score")
_Lists = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


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
    options: MiningOptions | None = None,
    rerank: int | None = None,
) -> OfflineLists:
    """The hardest negatives of the training set, both ways, as a run's best weights see it.

    Images of one group, and the captions of those images, are never each other's negatives; nor is, unless the options
    allow it, a text that repeats a caption of an image: that has the same tokens, so that the model reads the same.

    Args:
        run: a run's folder, or the run itself.
        k_text: texts listed for each image; lists longer than the data set allows are cut to it.
        k_image: images listed for each text.
        options: further rules, and where the work is kept.
        rerank: see `mine_model`; by default the run's ``offline.rerank``.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    data = load_split(loaded.config.data, loaded.config.data.train_split)
    pairs = EncodedPairs(data, loaded.vocabulary)
    rerank = loaded.config.offline.rerank if rerank is None else rerank
    return mine_model(loaded.model, pairs, k_text, k_image, str(loaded.folder), loaded.epoch, options, rerank=rerank)


def mine_into(
    folder: Path,
    run: LoadedRun,
    k_text: int,
    k_image: int,
    options: MiningOptions | None = None,
    rerank: int | None = None,
) -> OfflineLists:
    """`mine_run` into a folder, which keeps what was done until the lists are there: the same call goes on where it
    was stopped, and begins anew for other weights or rules."""
    work = folder / UNFINISHED
    arguments = (run, k_text, k_image, replace(options or MiningOptions(), work=work), rerank)
    try:
        lists = mine_run(*arguments)
    except OtherProblem:
        shutil.rmtree(work)
        lists = mine_run(*arguments)
    lists.save(folder)
    shutil.rmtree(work, ignore_errors=True)
    return OfflineLists.load(folder)  # from where they stay


def mine_model(
    model: DualEncoder | ScoringModel,
    pairs: EncodedPairs,
    k_text: int = 300,
    k_image: int = 60,
    run: str | None = None,
    epoch: int | None = None,
    options: MiningOptions | None = None,
    processes: Processes = ALONE,
    rerank: int = 4,
) -> OfflineLists:
    """See `mine_run`; ``run`` and ``epoch`` say in the lists where the weights come from.

    A model that matches by scores is too slow to score every pair. ``rerank`` times as many candidates as are wanted
    are found by the mean of its features, exactly; these it scores, and the hardest are taken: what the mean ranks
    lower is not seen. Of no more than ``ALL_PAIRS`` pairs every one is scored, and the lists are exact.

    ``processes``, which all call this with the same weights, share the work, and each gets all lists.
    """
    data, options, rerank = pairs.data, options or MiningOptions(), as_int("rerank", rerank)
    k_text, k_image = as_int("k_text", k_text), as_int("k_image", k_image)
    k_text, k_image = min(k_text, len(pairs.tokens)), min(k_image, len(data.images))
    embeddings = None
    if isinstance(model, DualEncoder):
        images = embed_images(model, data.images, processes=processes)  # (N, D)
        texts = embed_texts(model, pairs.tokens, pairs.lengths, processes=processes)  # (M, D)
        embeddings = fingerprint_embeddings(images, texts)
        found = _mine(pairs, images, texts, k_text, k_image, options, processes)
    else:
        found = _mine_by_scores(model, pairs, k_text, k_image, options, processes, rerank)
    problem = describe_run(model, data, k_text, k_image, options, rerank)
    origin = MinedFrom(run, epoch, problem["weights"], embeddings)
    return OfflineLists(
        Manifest(problem, origin),
        indices=found[0].astype(np.int32, copy=False),
        scores=found[1],
        reverse_indices=found[2].astype(np.int32, copy=False),
        reverse_scores=found[3],
        text_image=pairs.caption_image,
    )


def describe_run(
    model: DualEncoder | ScoringModel,
    data: ImageTextData,
    k_text: int,
    k_image: int,
    options: MiningOptions,
    rerank: int,
) -> dict[str, Any]:
    """All that decides the lists."""
    return {
        "rows": "images",
        "weights": fingerprint_weights(model.state_dict()),
        "data": fingerprint_data(data),
        "k_text": min(k_text, len(data.captions)),
        "k_image": min(k_image, len(data.images)),
        **{name: getattr(options, name) for name in ("repeated_captions", *_RULES)},
        "rerank": None if isinstance(model, DualEncoder) else rerank,
    }


def _mine_by_scores(
    model: ScoringModel,
    pairs: EncodedPairs,
    k_text: int,
    k_image: int,
    options: MiningOptions,
    processes: Processes,
    factor: int,
) -> _Lists:
    for name in ("margin", "relative_margin", "max_score"):
        if getattr(options, name) is not None:
            raise ConfigError(f"{name}: expected none for a model that matches by scores, got {getattr(options, name)}")
    split = ScoredSplit.encode(model, pairs, processes=processes, folder=options.work)
    images, texts = (pooled(side, split.device, processes).to(split.device) for side in (split.images, split.texts))
    every = len(images) * len(texts) <= ALL_PAIRS
    wide_text = len(texts) if every else min(len(texts), factor * (k_text + options.skip))
    wide_image = len(images) if every else min(len(images), factor * (k_image + options.skip))
    near = _mine(pairs, images, texts, wide_text, wide_image, replace(options, skip=0), processes)
    listed = torch.from_numpy(near[0].astype(np.int32)), torch.from_numpy(near[2].astype(np.int32))
    found = rerank_listed(split, listed, options.skip, (k_text, k_image), processes, options.work, options.on_progress)
    return tuple(part.numpy() for part in found)  # type: ignore[return-value]


def _mine(
    pairs: EncodedPairs,
    images: Tensor,
    texts: Tensor,
    k_text: int,
    k_image: int,
    options: MiningOptions,
    processes: Processes = ALONE,
) -> _Lists:
    """Texts (N, k_text) of each image, their scores, images (M, k_image) of each text, their scores."""
    text_image = torch.from_numpy(pairs.caption_image)
    image_groups = torch.from_numpy(pairs.data.group_ids)  # (N,)
    arguments: dict[str, Any] = {name: getattr(options, name) for name in (*_RULES, "memory_limit")}
    if not options.repeated_captions:
        labels = token_labels(pairs.tokens, pairs.lengths, text_image, len(images))
        arguments["candidate_labels"], arguments["anchor_labels"] = labels
    groups = image_groups, image_groups[text_image]
    if options.work is not None:
        mined = mine_to_files(
            images, texts, options.work, k_text, *groups, direction="both", k_reverse=k_image,
            on_progress=options.on_progress, **arguments,
        )  # fmt: skip
        assert mined.reverse_indices is not None and mined.reverse_scores is not None
        return mined.indices, mined.scores, mined.reverse_indices, mined.reverse_scores
    arguments |= {"direction": "both", "k_reverse": k_image, "device": images.device}
    if processes.alone:
        found = mine_hard_negatives(images, texts, k_text, *groups, **arguments)
    else:
        rows, columns = processes.share(len(images)), processes.share(len(texts))
        for name, own in (("anchor_labels", rows), ("candidate_labels", columns)):
            if name in arguments:
                arguments[name] = _labels_of(arguments[name], own)
        found = mine_hard_negatives(
            images[rows], texts[columns], k_text, groups[0][rows], groups[1][columns], distributed=True, **arguments
        )
    assert found.reverse is not None
    lists = (found.indices, found.scores, found.reverse.indices, found.reverse.scores)
    everyones = tuple(processes.gather(part) for part in lists)
    return tuple(part.cpu().numpy() for part in everyones)  # type: ignore[return-value]


def _labels_of(labels: tuple[Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor]:
    """The labels of some rows, from (values, offsets)."""
    values, offsets = labels
    own = offsets[rows.start : rows.stop + 1]
    return values[int(own[0]) : int(own[-1])], own - own[0]
