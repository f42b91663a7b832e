"""Images that another process reads."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aoq_ext.data import Pictures
from aoq_ext.data.image_rows import is_in_memory, select_rows
from aoq_ext.data.reading import RowReader
from tests.tiny_data import picture_of

ROWS = np.array([5, 0, 5, 11])


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("reading") / "rows.npy"
    np.save(path, np.random.default_rng(0).normal(size=(120, 7, 300)).astype(np.float32))
    return np.load(path, mmap_mode="r")


def views(mapped: Any) -> dict[str, Any]:
    return {
        "whole": mapped,
        "every fifth": mapped[::5],
        "backwards": mapped[::-3],
        "columns": mapped[2:, 1:, ::2],
        "a plain array": np.asarray(mapped),
        "chosen": select_rows(mapped, np.random.default_rng(1).permutation(120)),
    }


@pytest.mark.parametrize("view", ["whole", "every fifth", "backwards", "columns", "a plain array", "chosen"])
def test_a_memory_map_is_mapped_again_and_not_copied(mapped: Any, view: str) -> None:
    images = views(mapped)[view]
    packed = pickle.dumps(RowReader(images))
    assert len(packed) < 3000
    reader = pickle.loads(packed)
    np.testing.assert_array_equal(reader[0, ROWS], np.array(images[:])[ROWS])
    assert not is_in_memory(reader.images)


def test_what_is_in_memory_is_copied(mapped: Any) -> None:
    images = np.array(mapped)
    assert is_in_memory(images)
    assert not is_in_memory(mapped)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(RowReader(images)))[0, ROWS], images[ROWS])
    changed = np.load(mapped.filename, mmap_mode="c")
    changed[0] = 3
    assert (pickle.loads(pickle.dumps(RowReader(changed)))[0, ROWS][1] == 3).all()


def test_pictures_are_decoded_in_another_process(tmp_path: Path) -> None:
    from PIL import Image

    for image in range(3):
        Image.fromarray(picture_of(image, 0)).save(tmp_path / f"{image}.png")
    reader = RowReader(Pictures([tmp_path / f"{image}.png" for image in range(3)], size=16))
    request = (0, np.array([2, 0]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(reader.__getitem__, (request,)), reader[request])
