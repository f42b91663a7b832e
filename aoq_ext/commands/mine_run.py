"""``aoq mine --run``: the training set of a trained model."""

from __future__ import annotations

import argparse
import shutil
import time

import torch

from aoq_ext.mining.manifest import OtherProblem
from aoq_ext.mining.progress import MiningDisplay
from aoq_ext.training.load import LoadedRun, load_run
from aoq_ext.training.mining import MiningOptions, mine_run
from aoq_ext.training.offline import OfflineLists

_WORK = "unfinished"  # in the folder of the lists


def mine(parsed: argparse.Namespace) -> int:

    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    loaded = load_run(parsed.run, device=parsed.device or "cpu")
    begun = time.perf_counter()
    try:
        lists = _mine(loaded, parsed)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt("the same command continues it") from error
    seconds = time.perf_counter() - begun
    lists.save(parsed.out)
    lists = OfflineLists.load(parsed.out)  # from where they stay
    shutil.rmtree(parsed.out / _WORK)
    texts, images = lists.texts.shape, lists.images.shape
    print(
        f"{parsed.out}: {texts[1]} texts for each of {texts[0]:,} images, "
        f"{images[1]} images for each of {images[0]:,} texts"
    )
    if parsed.authors_layout is not None:
        from aoq_ext.mining.authors_layout import check_caption_order, write_authors_layout

        if lists.text_image is not None:
            check_caption_order(lists.text_image)
        paths = write_authors_layout(parsed.authors_layout, parsed.data_name or "coco", lists.texts, lists.images)
        print(f"{paths[0]}, {paths[1]}: as the authors' training code reads them")
    if parsed.report is not None:
        from aoq_ext.commands.mine_report import report_on_run

        report_on_run(parsed.report, loaded, lists, vars(parsed), parsed.earlier, seconds)
        print(f"{parsed.report}: a page about these lists")
    return 0


def _mine(loaded: LoadedRun, parsed: argparse.Namespace) -> OfflineLists:
    work = parsed.out / _WORK
    with MiningDisplay() as display:
        options = MiningOptions(
            repeated_captions=bool(parsed.repeated_captions),
            skip=parsed.skip or 0,
            margin=parsed.margin,
            relative_margin=parsed.relative_margin,
            max_score=parsed.max_score,
            memory_limit=parsed.memory_limit,
            work=work,
            on_progress=display.update,
        )
        arguments = (loaded, parsed.k_text, parsed.k_image, parsed.report is not None, options)
        try:
            return mine_run(*arguments)
        except OtherProblem:  # other weights or rules than when it was stopped
            shutil.rmtree(work)
            return mine_run(*arguments)
