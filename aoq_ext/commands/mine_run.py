"""``aoq mine --run``: the training set of a trained model."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from aoq_ext._files import visible
from aoq_ext.commands.mine_output import export_authors_layout, shortness
from aoq_ext.lists.authors_layout import check_caption_order
from aoq_ext.lists.folder import check_out_of_run
from aoq_ext.lists.manifest import MANIFEST, Manifest
from aoq_ext.mining.progress import MiningDisplay
from aoq_ext.training.config import ConfigError
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.mining import UNFINISHED, MiningOptions, describe_run, mine_into
from aoq_ext.training.model import DualEncoder
from aoq_ext.training.offline import OfflineLists
from aoq_ext.training.pairs import load_split

if TYPE_CHECKING:
    from aoq_ext.commands.mine_report import Earlier
    from aoq_ext.data import ImageTextData


_OTHER = {"weights": "other weights", "data": "another data set"}


def mine(parsed: argparse.Namespace) -> int:
    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    known = check_out_of_run(parsed.out, "out", bool(parsed.overwrite))
    _check_work(parsed.out / UNFINISHED)
    loaded = load_run(parsed.run, device=parsed.device or "cpu", root=parsed.root)
    lists, earlier = _look(parsed, loaded, known)
    begun = time.perf_counter()
    message = "mined before, "
    if lists is None:
        message = ""
        try:
            with MiningDisplay() as display:
                options = replace(_options(parsed), on_progress=display.update)
                lists = mine_into(parsed.out, loaded, parsed.k_text, parsed.k_image, options)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("the same command continues it") from error
    shutil.rmtree(parsed.out / UNFINISHED, ignore_errors=True)  # of a process that was killed after it had written them
    seconds = time.perf_counter() - begun
    texts, images = lists.texts.shape, lists.images.shape
    print(
        f"{parsed.out}: {message}{texts[1]} texts for each of {texts[0]:,} images, "
        f"{images[1]} images for each of {images[0]:,} texts"
    )
    for line in filter(None, (shortness(lists.texts, "images"), shortness(lists.images, "texts"))):
        print(line)
    if parsed.authors_layout is not None:
        export_authors_layout(parsed.authors_layout, parsed.data_name, lists.texts, lists.images)
    if parsed.report is not None:
        from aoq_ext.commands.mine_report import report_on_run

        report_on_run(parsed.report, loaded, lists, vars(parsed), earlier, seconds)
        print(f"{parsed.report}: a page about these lists")
    return 0


def _check_work(work: Path) -> None:
    """It is removed in the end."""
    if work.is_dir() and not (work / MANIFEST).exists() and visible(work, "*"):
        raise FileExistsError(f"out must not hold files of others, got {work} without {MANIFEST}")


def _look(
    parsed: argparse.Namespace, loaded: LoadedRun, known: Manifest | None
) -> tuple[OfflineLists | None, Earlier | None]:
    """The lists that are there already, and those of ``--earlier``; refuses exports that cannot be made afterwards.

    known: the manifest of the lists in the folder.
    """
    if parsed.report is not None and not isinstance(loaded.model, DualEncoder):
        raise ConfigError("report: expected none for a model that matches by scores")
    if known is None and parsed.authors_layout is None and parsed.earlier is None:
        return None, None
    data = load_split(loaded.config.data, loaded.config.data.train_split)
    if parsed.authors_layout is not None:
        try:
            check_caption_order(data.caption_image)
        except ValueError as error:
            raise ValueError(f"authors_layout: {error}") from error
    lists = None if known is None else _mined_before(known, parsed, loaded, data)
    if parsed.earlier is None:
        return lists, None
    from aoq_ext.commands.mine_report import open_earlier

    return lists, open_earlier(parsed.earlier, len(data.images), len(data.captions))


def _mined_before(
    known: Manifest, parsed: argparse.Namespace, loaded: LoadedRun, data: ImageTextData
) -> OfflineLists | None:
    """The lists in the folder if they are what would be mined; None if they are to be mined, again or anew."""
    rerank = loaded.config.offline.rerank
    problem = describe_run(loaded.model, data, parsed.k_text, parsed.k_image, _options(parsed), rerank)
    name = known.differs(problem)
    if name is None and known.complete:
        try:
            return OfflineLists.load(parsed.out)
        except ConfigError:  # damaged
            return None
    if name is not None and not parsed.overwrite:
        other = f"{name} {known.problem.get(name)}, not {problem[name]}"
        raise ValueError(f"out: {parsed.out} holds lists with {_OTHER.get(name, other)}; --overwrite replaces them")
    return None


def _options(parsed: argparse.Namespace) -> MiningOptions:
    return MiningOptions(
        repeated_captions=bool(parsed.repeated_captions),
        skip=parsed.skip or 0,
        margin=parsed.margin,
        relative_margin=parsed.relative_margin,
        max_score=parsed.max_score,
        memory_limit=parsed.memory_limit,
    )
