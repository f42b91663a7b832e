"""``aoq mine --anchors --candidates``: mining between files of embeddings."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from aoq_ext._sources import Source, check_sources, open_embeddings, read_integers
from aoq_ext.commands.mine_output import earlier_lists, finish, note, options_of, shown_progress
from aoq_ext.data.captions import read_captions
from aoq_ext.lists import authors_layout, mine_to_files
from aoq_ext.lists.estimate import estimate
from aoq_ext.lists.folder import check_out_of_files
from aoq_ext.mining.captions import caption_labels
from aoq_ext.mining.devices import checked_device
from aoq_ext.mining.progress import MiningProgress, size
from aoq_ext.mining.rules import MiningRules
from aoq_ext.parallel import joined, parting

_LARGE = 10**9  # bytes of embeddings that take a while to read
_INPUTS = ("anchors", "candidates", "anchor_ids", "candidate_ids", "text_image_index", "captions")

T = TypeVar("T")


def mine(parsed: argparse.Namespace) -> int:
    with _team() as leads:
        sources = open_embeddings(parsed.anchors, "anchors"), open_embeddings(parsed.candidates, "candidates")
        check_sources(*sources)
        rules = {"direction": "both" if parsed.both else "anchors", **options_of(MiningRules, parsed)}
        index = _text_images(parsed, _images_and_texts(parsed, sources)[1].shape[0])
        belonging = _belonging(parsed, index, sources)
        check_out_of_files(parsed.out, {name: getattr(parsed, name) for name in _INPUTS})
        earlier = earlier_lists(parsed, *(source.shape[0] for source in _images_and_texts(parsed, sources)))
        if leads and "anchor_ids" not in belonging:
            note(
                "an item's own pair can be listed, as nothing says what belongs together: "
                "--text-image-index does, or --anchor-ids and --candidate-ids"
            )
        if parsed.dry_run:
            if leads:
                for name, source in zip(("anchors", "candidates"), sources):
                    dtype = str(source.dtype).removeprefix("torch.")
                    print(f"{name:<12}{source.shape[0]:,} × {source.shape[1]}, {dtype}: {getattr(parsed, name)}")
                device, checked = _device(parsed.device), MiningRules.given(**rules)
                words = estimate(*sources, parsed.out, checked, parsed.memory_limit, device)
                print("\n".join(f"{topic:<12}{said}" for topic, said in words.items()))
            return 0
        begun = time.perf_counter()
        amount = sum(source.shape[0] * source.shape[1] * source.dtype.itemsize for source in sources)
        if leads and amount >= _LARGE:
            print(f"reading and checking {size(amount)} of embeddings first", file=sys.stderr)
        worked = False
        with shown_progress() if leads else contextlib.nullcontext() as display:

            def show(now: MiningProgress) -> None:
                nonlocal worked
                worked = True
                if display is not None:
                    display.update(now)

            mined = mine_to_files(
                parsed.anchors, parsed.candidates, parsed.out, **rules, **belonging, memory_limit=parsed.memory_limit,
                device=_device(parsed.device), texts=parsed.texts, on_progress=show,
            )  # fmt: skip
        if leads:
            finish(parsed, mined, "anchors", "candidates", worked)
            if parsed.report is not None:
                from aoq_ext.commands.mine_report import report_on_files

                report_on_files(
                    parsed.report,
                    mined,
                    *sources,
                    rules | belonging,
                    texts=parsed.texts,
                    captions=None if parsed.captions is None else read_captions(parsed.captions),
                    text_images=index,
                    earlier=earlier,
                    seconds=time.perf_counter() - begun,
                )
                print(f"{parsed.report}: a page about these lists")
    return 0


@contextlib.contextmanager
def _team() -> Iterator[bool]:
    """Join the processes that a launcher such as torchrun started; whether this one speaks for them."""
    with parting():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            dist.init_process_group("gloo")
        yield joined().leads


def _images_and_texts(parsed: argparse.Namespace, sides: tuple[T, T]) -> tuple[T, T]:
    """From, or to, anchors and candidates."""
    return sides if parsed.texts == "candidates" else (sides[1], sides[0])


def _text_images(parsed: argparse.Namespace, texts: int) -> Tensor | None:
    """The image of each text, where it is given or follows from the authors' layout."""
    if parsed.text_image_index is not None:
        return read_integers(parsed.text_image_index, "text_image_index")
    if parsed.authors_layout is not None and parsed.anchor_ids is None:
        return torch.arange(texts, device="cpu") // authors_layout.CAPTIONS
    return None


def _belonging(parsed: argparse.Namespace, index: Tensor | None, sources: tuple[Source, Source]) -> dict[str, Any]:
    """Ids, given or by the texts' images, and labels by equal captions: as arguments of `mine_to_files`."""
    images, texts = (source.shape[0] for source in _images_and_texts(parsed, sources))
    given: dict[str, Any] = {}
    if index is not None:
        image, text = _images_and_texts(parsed, ("anchor", "candidate"))
        if len(index) != texts:
            raise ValueError(f"text_image_index must be one image for each of the {texts} {text}s, got {len(index)}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < images:
            raise ValueError(
                f"text_image_index must be from 0 to {images - 1}, got {int(index.min())} to {int(index.max())}"
            )
        if parsed.authors_layout is not None:
            authors_layout.check_caption_order(index.numpy())
        given = {f"{text}_ids": index, f"{image}_ids": torch.arange(images, device="cpu")}
        if parsed.captions is not None:
            labels = caption_labels(read_captions(parsed.captions), index, images)
            given[f"{text}_labels"], given[f"{image}_labels"] = labels
    for name in ("anchor_ids", "candidate_ids"):
        if (path := getattr(parsed, name)) is not None:
            given[name] = read_integers(path, name)
    if parsed.authors_layout is not None and texts != authors_layout.CAPTIONS * images:
        raise ValueError(
            f"{parsed.texts} must be {authors_layout.CAPTIONS} texts for each of the {images} images for the authors' "
            f"layout, got {texts}"
        )
    return given


def _device(name: str) -> torch.device:
    """The device asked for; of several GPUs the one of this rank."""
    device = torch.device(name)
    if device.type == "cuda" and device.index is None:
        return checked_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    return device
