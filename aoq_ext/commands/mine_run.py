"""``aoq mine --run``: the training set of a trained model."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aoq_ext._files import visible
from aoq_ext.commands.mine_output import export_authors_layout, shortness
from aoq_ext.lists.authors_layout import check_caption_order
from aoq_ext.lists.lists_folder import check_replaceable
from aoq_ext.lists.manifest import MANIFEST
from aoq_ext.mining.progress import MiningDisplay
from aoq_ext.training.config import ConfigError
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.mining import UNFINISHED, MiningOptions, mine_into, rules_of
from aoq_ext.training.model import DualEncoder
from aoq_ext.training.offline import OfflineLists, fingerprint_data, fingerprint_weights
from aoq_ext.training.pairs import load_split

if TYPE_CHECKING:
    from aoq_ext.commands.mine_report import Earlier
    from aoq_ext.data import ImageTextData


def mine(parsed: argparse.Namespace) -> int:
    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    known = check_replaceable(parsed.out, "out")
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
                lists = mine_into(parsed.out, loaded, parsed.k_text, parsed.k_image, parsed.report is not None, options)
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
    parsed: argparse.Namespace, loaded: LoadedRun, known: dict[str, Any] | None
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
    known: dict[str, Any], parsed: argparse.Namespace, loaded: LoadedRun, data: ImageTextData
) -> OfflineLists | None:
    """The lists in the folder if they are what would be mined; None if they are to be mined, again or anew."""
    rerank = loaded.config.offline.rerank
    rules = rules_of(loaded.model, data, parsed.k_text, parsed.k_image, _options(parsed), rerank)
    found = known.get("rules")
    other = [name for name in rules if found is not None and found.get(name) != rules[name]]
    if known["weights_fingerprint"] != fingerprint_weights(loaded.model.state_dict()):
        differs = "other weights"
    elif found is None:
        differs = "unknown rules"
    elif other:
        differs = f"{other[0]} {found.get(other[0])}, not {rules[other[0]]}"
    elif known["data_fingerprint"] != fingerprint_data(data):
        differs = "another data set"
    else:
        try:
            lists = OfflineLists.load(parsed.out)
        except ConfigError:  # damaged
            return None
        return lists if parsed.report is None or lists.text_scores is not None else None
    if not parsed.overwrite:
        raise ValueError(f"out: {parsed.out} holds lists with {differs}; --overwrite replaces them")
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
