"""``aoq mine --run``: the training set of a trained model."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from aoq_ext.commands.mine_output import earlier_lists, finish, options_of, shown_progress
from aoq_ext.lists.authors_layout import check_caption_order
from aoq_ext.lists.folder import check_out_of_run
from aoq_ext.training.config import ConfigError
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.mining import MiningOptions, check_work, drop_work, mine_into, problem_of_run
from aoq_ext.training.offline import OfflineLists
from aoq_ext.training.pairs import load_split

if TYPE_CHECKING:
    from aoq_ext.commands.mine_report import Earlier
    from aoq_ext.lists.manifest import Manifest


def mine(parsed: argparse.Namespace) -> int:
    known = check_out_of_run(parsed.out, "out", parsed.overwrite)
    check_work(parsed.out)
    loaded = load_run(parsed.run, device=parsed.device, root=parsed.root)
    options = MiningOptions(**options_of(MiningOptions, parsed))
    earlier = _check_exports(parsed, loaded)
    found = None if known is None else _mined_before(known, parsed, loaded, options)
    begun = time.perf_counter()
    if found is None:
        with shown_progress() as display:
            lists = mine_into(parsed.out, loaded, replace(options, on_progress=display.update))
    else:
        lists = found
        drop_work(parsed.out)  # of a process that was killed after it had written them
    seconds = time.perf_counter() - begun
    finish(parsed, lists, "images", "texts", found is None)
    if parsed.report is not None:
        from aoq_ext.commands.mine_report import report_on_run

        report_on_run(parsed.report, loaded, lists, vars(parsed), earlier, seconds)
        print(f"{parsed.report}: a page about these lists")
    return 0


def _check_exports(parsed: argparse.Namespace, loaded: LoadedRun) -> Earlier | None:
    """The lists of ``--earlier``; refuses exports that cannot be made afterwards."""
    if parsed.report is not None and not loaded.model.embeds:
        raise ConfigError("report: expected none for a model that matches by scores")
    if parsed.authors_layout is None and parsed.earlier is None:
        return None
    data = load_split(loaded.config.data, loaded.config.data.train_split)
    if parsed.authors_layout is not None:
        try:
            check_caption_order(data.caption_image)
        except ValueError as error:
            raise ValueError(f"authors_layout: {error}") from error
    return earlier_lists(parsed, len(data.images), len(data.captions))


def _mined_before(
    known: Manifest, parsed: argparse.Namespace, loaded: LoadedRun, options: MiningOptions
) -> OfflineLists | None:
    """The lists in the folder if they are what would be mined; None if they are to be mined, again or anew."""
    if not known.complete:
        return None
    problem = problem_of_run(loaded, options)
    if not parsed.overwrite:
        known.check_same(problem, parsed.out, "--overwrite replaces them")
    if known.differs(problem) is not None:
        return None
    try:
        return OfflineLists.load(parsed.out)
    except ConfigError:  # damaged
        return None
