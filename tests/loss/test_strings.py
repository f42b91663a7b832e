"""One string where a list of strings belongs would be taken letter by letter: every entry point refuses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aoq_ext import cli
from aoq_ext.data import ImageTextData, Pictures, Vocabulary
from aoq_ext.data.verify import verify
from aoq_ext.mining import caption_labels
from aoq_ext.mining.statistics import MiningRecord, RankedLists
from aoq_ext.training.evaluation import evaluate_ensemble
from aoq_ext.training.parse import parse_config
from aoq_ext.training.recipe import read_recipe
from aoq_ext.training.tokens import encode_captions
from tests.tiny_data import write_precomputed

LISTS = RankedLists(np.zeros((3, 1), np.int64), np.zeros((3, 1), np.float32))


def data(**changes: Any) -> ImageTextData:
    fields = {
        "images": np.zeros((3, 2), np.float32), "captions": ["a", "b", "c"], "image_names": ["x", "y", "z"],
        "caption_image": np.arange(3), "group_ids": np.arange(3), "name": "three",
    }  # fmt: skip
    return ImageTextData(**{**fields, **changes})  # type: ignore[arg-type]


ENTRIES: dict[str, tuple[str, Callable[[Any, Path], object]]] = {
    "Vocabulary": ("words", lambda text, folder: Vocabulary(text)),
    "Vocabulary.build": ("captions", lambda text, folder: Vocabulary.build(text)),
    "Vocabulary.encode": ("captions", lambda text, folder: Vocabulary(["dog"]).encode(text)),
    "encode_captions": ("captions", lambda text, folder: encode_captions(Vocabulary(["dog"]), text)),
    "caption_labels": ("captions", lambda text, folder: caption_labels(text, torch.arange(3), 3)),
    "ImageTextData": ("captions", lambda text, folder: data(captions=text)),
    "image_names": ("image_names", lambda text, folder: data(image_names=text)),
    "Pictures": ("paths", lambda text, folder: Pictures(text)),
    "verify": ("splits", lambda text, folder: verify(write_precomputed(folder / "set"), splits=text)),
    "report": ("captions", lambda text, folder: MiningRecord("", LISTS, 3, captions=text)),
    "report's names": ("image_names", lambda text, folder: MiningRecord("", LISTS, 3, image_names=text)),
    "report's rules": ("excluded", lambda text, folder: MiningRecord("", LISTS, 3, excluded=text)),
    "main": ("argv", lambda text, folder: cli.main(text)),
    "parse_config": ("arguments", lambda text, folder: parse_config(text)),
    "evaluate_ensemble": ("runs", lambda text, folder: evaluate_ensemble(text, "test")),
    "read_recipe": ("evaluations", lambda text, folder: read_recipe("configs/icons/scan", evaluations=text)),
}


@pytest.mark.parametrize("text", ["dog", b"dog"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_one_string_is_refused_by_name(entry: str, text: Any, tmp_path: Path) -> None:
    name, call = ENTRIES[entry]
    with pytest.raises(
        TypeError, match=rf"^{name}: expected a list of (str|paths|runs|evaluations), got {type(text).__name__}: "
    ):
        call(text, tmp_path)
