"""``aoq mine --anchors --candidates``: mining between files of embeddings."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from aoq_ext._sources import Source, check_sources, open_embeddings, read_integers
from aoq_ext.commands.mine_output import export_authors_layout, note, shortness
from aoq_ext.data.captions import read_captions
from aoq_ext.lists import MinedLists, authors_layout, mine_to_files
from aoq_ext.lists.estimate import Estimate, estimate
from aoq_ext.lists.folder import check_out_of_files
from aoq_ext.mining.captions import caption_labels
from aoq_ext.mining.devices import checked_device
from aoq_ext.mining.progress import MiningDisplay, MiningProgress, count, duration, size
from aoq_ext.parallel import joined, parting

if TYPE_CHECKING:
    from aoq_ext.commands.mine_report import Earlier

_LARGE = 10**9  # bytes of embeddings that take a while to read
_INPUTS = ("anchors", "candidates", "anchor_ids", "candidate_ids", "text_image_index", "captions")


def mine(parsed: argparse.Namespace) -> int:
    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    with _team() as leads:
        anchors, candidates = (open_embeddings(getattr(parsed, name), name) for name in ("anchors", "candidates"))
        check_sources(anchors, candidates)
        arguments = _arguments(parsed, anchors, candidates)
        check_out_of_files(parsed.out, {name: getattr(parsed, name) for name in _INPUTS})
        earlier = _earlier(parsed, anchors, candidates)
        if leads and arguments.get("anchor_ids") is None:
            note(
                "an item's own pair can be listed, as nothing says what belongs together: "
                "--text-image-index does, or --anchor-ids and --candidate-ids"
            )
        if parsed.dry_run:
            if leads:
                _print_estimate(parsed, anchors, candidates)
            return 0
        begun = time.perf_counter()
        amount = sum(source.shape[0] * source.shape[1] * source.dtype.itemsize for source in (anchors, candidates))
        if leads and amount >= _LARGE:
            print(f"reading and checking {size(amount)} of embeddings first", file=sys.stderr)
        worked = False
        try:
            with MiningDisplay() if leads else contextlib.nullcontext() as display:

                def show(now: MiningProgress) -> None:
                    nonlocal worked
                    worked = True
                    if display is not None:
                        display.update(now)

                mined = mine_to_files(
                    parsed.anchors, parsed.candidates, parsed.out, parsed.k, on_progress=show, **arguments
                )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt("the same command continues it") from error
        if leads:
            _print_mined(mined, worked)
            if parsed.authors_layout is not None:
                _write_authors_layout(parsed, mined)
            if parsed.report is not None:
                seconds = time.perf_counter() - begun
                _write_report(parsed, mined, (anchors, candidates), arguments, earlier, seconds)
    return 0


@contextlib.contextmanager
def _team() -> Iterator[bool]:
    """Join the processes that a launcher such as torchrun started; whether this one speaks for them."""
    with parting():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("gloo")
        yield joined().leads


def _arguments(parsed: argparse.Namespace, anchors: Source, candidates: Source) -> dict[str, Any]:
    """Those of `mine_to_files`, checked as far as the sizes allow it."""
    given: dict[str, Any] = {
        "direction": "both" if parsed.both else "anchors",
        "k_reverse": parsed.k_reverse,
        "skip": parsed.skip or 0,
        "margin": parsed.margin,
        "relative_margin": parsed.relative_margin,
        "max_score": parsed.max_score,
        "memory_limit": parsed.memory_limit,
        "device": _device(parsed.device),
        "texts": _texts(parsed),
    }
    index = _text_images(parsed, (candidates if _texts(parsed) == "candidates" else anchors).shape[0])
    if index is not None:
        given |= _belonging(parsed, index, anchors, candidates)
    for name in ("anchor_ids", "candidate_ids"):
        if (path := getattr(parsed, name)) is not None:
            given[name] = read_integers(path, name)
    if parsed.authors_layout is not None:
        images, texts = (anchors, candidates) if _texts(parsed) == "candidates" else (candidates, anchors)
        if texts.shape[0] != authors_layout.CAPTIONS * images.shape[0]:
            raise ValueError(
                f"{_texts(parsed)} must be {authors_layout.CAPTIONS} texts for each of the {images.shape[0]} images "
                f"for the authors' layout, got {texts.shape[0]}"
            )
    return given


def _belonging(parsed: argparse.Namespace, index: Tensor, anchors: Source, candidates: Source) -> dict[str, Any]:
    """Ids by the texts' images, and labels by equal captions."""
    texts, images = ("candidate", "anchor") if _texts(parsed) == "candidates" else ("anchor", "candidate")
    rows = {"anchor": anchors.shape[0], "candidate": candidates.shape[0]}
    if len(index) != rows[texts]:
        raise ValueError(f"text_image_index must be one image for each of the {rows[texts]} {texts}s, got {len(index)}")
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows[images]:
        raise ValueError(
            f"text_image_index must be from 0 to {rows[images] - 1}, got {int(index.min())} to {int(index.max())}"
        )
    if parsed.authors_layout is not None:
        authors_layout.check_caption_order(index.numpy())
    given: dict[str, Any] = {f"{texts}_ids": index, f"{images}_ids": torch.arange(rows[images], device="cpu")}
    if parsed.captions is not None:
        labels = caption_labels(read_captions(parsed.captions), index, rows[images])
        given[f"{texts}_labels"], given[f"{images}_labels"] = labels
    return given


def _text_images(parsed: argparse.Namespace, texts: int) -> Tensor | None:
    """The image of each text, where it is given or follows from the authors' layout."""
    if parsed.text_image_index is not None:
        return read_integers(parsed.text_image_index, "text_image_index")
    if parsed.authors_layout is not None and parsed.anchor_ids is None:
        return torch.arange(texts, device="cpu") // authors_layout.CAPTIONS
    return None


def _texts(parsed: argparse.Namespace) -> str:
    return parsed.texts or "candidates"


def _device(name: str | None) -> torch.device:
    """The device asked for; of several GPUs the one of this rank."""
    device = torch.device(name or "cpu")
    if device.type == "cuda" and device.index is None:
        return checked_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return device


def _write_authors_layout(parsed: argparse.Namespace, mined: MinedLists) -> None:
    assert mined.reverse_indices is not None
    lists = mined.indices, mined.reverse_indices
    texts, images = lists if _texts(parsed) == "candidates" else lists[::-1]
    export_authors_layout(parsed.authors_layout, parsed.data_name, texts, images)


def _write_report(
    parsed: argparse.Namespace,
    mined: MinedLists,
    sources: tuple[Source, Source],
    arguments: dict[str, Any],
    earlier: Earlier | None,
    seconds: float,
) -> None:
    from aoq_ext.commands.mine_report import report_on_files

    report_on_files(
        parsed.report,
        mined,
        *sources,
        arguments,
        texts=_texts(parsed),
        captions=None if parsed.captions is None else read_captions(parsed.captions),
        text_images=_text_images(parsed, sources[_texts(parsed) == "candidates"].shape[0]),
        earlier=earlier,
        seconds=seconds,
    )
    print(f"{parsed.report}: a page about these lists")


def _earlier(parsed: argparse.Namespace, anchors: Source, candidates: Source) -> Earlier | None:
    if parsed.earlier is None:
        return None
    from aoq_ext.commands.mine_report import open_earlier

    rows = anchors.shape[0], candidates.shape[0]
    return open_earlier(parsed.earlier, *(rows[::-1] if _texts(parsed) == "anchors" else rows), parsed.texts)


def _print_mined(mined: MinedLists, now: bool) -> None:
    rows, k = mined.indices.shape
    message = f"{mined.folder}: {'' if now else 'mined before, '}{k} candidates for each of {rows:,} anchors"
    short = [shortness(mined.indices, "anchors")]
    if mined.reverse_indices is not None:
        columns, k_reverse = mined.reverse_indices.shape
        message += f", {k_reverse} anchors for each of {columns:,} candidates"
        short.append(shortness(mined.reverse_indices, "candidates"))
    print(message)
    for line in filter(None, short):
        print(line)


def _print_estimate(parsed: argparse.Namespace, anchors: Source, candidates: Source) -> None:
    k_reverse = (parsed.k_reverse or parsed.k) if parsed.both else None
    device = _device(parsed.device)
    found = estimate(
        anchors, candidates, parsed.out, parsed.k, k_reverse, parsed.skip or 0, parsed.memory_limit, device
    )
    for name, source in (("anchors", anchors), ("candidates", candidates)):
        rows, width = source.shape
        print(f"{name:<12}{rows:,} × {width}, {str(source.dtype).removeprefix('torch.')}: {getattr(parsed, name)}")
    print(f"scores      {count(found.scores)}, each computed once; {_tiles(found)}")
    print(f"memory      {size(found.memory)} at a time; the embeddings are {size(found.embeddings)} together")
    print(f"disk        {size(found.lists)} in the end, {size(found.work)} more until then; {size(found.free)} free")
    print(f"time        about {duration(found.seconds)}: {count(found.rate)} scores/s on {device} in a short trial")
    done = "everything" if found.complete else f"{found.done} of {found.shards} parts"
    print(f"done        {done}; nothing was written now")


def _tiles(found: Estimate) -> str:
    return (
        f"{found.shards:,} restartable part{'' if found.shards == 1 else 's'} of up to {found.shard_rows:,} anchors, "
        f"{found.tiles:,} tile{'' if found.tiles == 1 else 's'} of up to {found.plan.anchor_rows:,} × "
        f"{found.plan.candidate_rows:,}"
    )
