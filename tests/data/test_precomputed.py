"""Features extracted beforehand, in the layout of the SCAN and VSE++ releases."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from aoq_ext.data import (
    DataError,
    Vocabulary,
    fingerprint_images,
    load_precomputed,
    read_captions,
    read_rows,
    read_vocabulary,
)
from aoq_ext.data.image_rows import HASHED_WHOLE_BYTES, SAMPLED_ROWS, ImageRows, LazyRows, SelectedRows
from tests.tiny_data import captions_of, features_of, write_captions, write_precomputed


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_precomputed(tmp_path / "f30k_precomp", repeated=["dev"], ids=True)


def is_mapped(array: np.ndarray) -> bool:
    while array is not None and not hasattr(array, "_mmap"):
        array = array.base
    return array is not None and array._mmap is not None


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_both_layouts_give_the_same_rows_without_reading_them(folder: Path, split: str) -> None:
    data = load_precomputed(split, folder)
    seed = ["train", "dev", "test"].index(split)
    images = 40 if split == "train" else 20
    assert data.name == f"f30k_precomp/{split}"
    assert data.images.shape == (images, 6, 32)
    assert data.images.dtype == np.float32
    assert is_mapped(data.images)
    assert not data.images.flags.writeable
    np.testing.assert_array_equal(data.images, features_of(images, seed))
    assert data.captions_of(7) == captions_of(7)
    np.testing.assert_array_equal(data.caption_image, np.repeat(np.arange(images), 5))
    np.testing.assert_array_equal(data.group_ids, np.arange(images))
    assert data.image_names[3] == f"{1000 * seed + 3}.jpg"
    rows = data.images[np.array([5, 2])]
    assert type(rows) is np.ndarray
    assert rows.base is None or not is_mapped(rows)
    assert rows.flags.writeable


def test_ids_may_be_for_each_caption_or_missing(folder: Path) -> None:
    lines = [f"{image}" for image in range(20) for _ in range(5)]
    (folder / "test_ids.txt").write_text("\n".join(lines))
    assert load_precomputed("test", folder).image_names == [str(image) for image in range(20)]
    (folder / "test_ids.txt").unlink()
    assert load_precomputed("test", folder, name="f30k").image_names[:2] == ["test 0", "test 1"]
    (folder / "test_ids.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match=r"test_ids.txt: expected an id for each of 20 images or 100 captions, got 2"):
        load_precomputed("test", folder)


def test_features_without_regions(tmp_path: Path) -> None:
    write_precomputed(tmp_path, {"train": 10})
    np.save(tmp_path / "train_ims.npy", features_of(10, 0)[:, 0])
    assert load_precomputed("train", tmp_path).images.shape == (10, 32)


def test_one_caption_an_image_is_asked_for(tmp_path: Path) -> None:
    write_precomputed(tmp_path, {"train": 10})
    np.save(tmp_path / "train_ims.npy", features_of(50, 0))
    with pytest.raises(
        DataError, match=r"expected every row 5 times.*got different rows from 0 on.*captions_per_image=1"
    ):
        load_precomputed("train", tmp_path)
    data = load_precomputed("train", tmp_path, captions_per_image=1)
    assert len(data) == len(data.captions) == 50


def test_wrong_splits_and_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"split: expected one of dev, test, train .*got 'val'; the validation split"):
        load_precomputed("val", folder)
    with pytest.raises(DataError, match=r"root: expected a folder with files such as train_ims.npy.*no folder"):
        load_precomputed("train", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"root: .*empty without any"):
        load_precomputed("train", tmp_path / "empty")
    with pytest.raises(ValueError, match=r"captions_per_image: expected a positive number, got 0"):
        load_precomputed("train", folder, captions_per_image=0)


def test_files_that_do_not_fit(folder: Path) -> None:
    with (folder / "train_caps.txt").open("a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=r"train_ims.npy: expected one row for each 5 captions, 40.2, or .*201, got 40"):
        load_precomputed("train", folder)
    (folder / "train_caps.txt").unlink()
    with pytest.raises(DataError, match=r"train_caps.txt: expected a file with one caption a line"):
        load_precomputed("train", folder)
    (folder / "test_ims.npy").unlink()
    with pytest.raises(DataError, match=r"test_ims.npy: expected a .npy file of features, got no such file"):
        load_precomputed("test", folder)


def test_features_that_are_none(folder: Path) -> None:
    path = folder / "train_ims.npy"
    np.save(path, features_of(40, 0).astype(np.float64))
    with pytest.raises(
        DataError, match=r"expected float32 of shape .*got float64 of shape \(40, 6, 32\); docs/data.md"
    ):
        load_precomputed("train", folder)
    np.save(path, np.array([{"a": 1}] * 40, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"expected a whole .npy file.*numpy.save"):
        load_precomputed("train", folder)
    np.save(path, features_of(40, 0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"expected a whole .npy file.*download it again"):
        load_precomputed("train", folder)
    np.savez(folder / "train.npz", a=features_of(40, 0))
    shutil.move(folder / "train.npz", path)
    with pytest.raises(DataError, match=r"expected (one array|a whole .npy file)"):
        load_precomputed("train", folder)


# ---- captions


def test_captions_keep_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "caps.txt"
    path.write_bytes("\ufeffune fenêtre\r\n\n a\u2028b\x85c \nlast".encode())
    assert read_captions(path) == ["une fenêtre", "", "a\u2028b\x85c", "last"]


def test_captions_that_are_no_text(tmp_path: Path) -> None:
    write_captions(tmp_path, "train", ["fine", "b'a cat'"])
    with pytest.raises(DataError, match=r"line 2: expected text, got the printed form of a bytes object, b'a cat'"):
        read_captions(tmp_path / "train_caps.txt")
    write_captions(tmp_path, "train", ["fine", "fenêtre".encode("latin1")])
    with pytest.raises(DataError, match=r"line 2: expected UTF-8, got b'fen\\xeatre'.*iconv"):
        read_captions(tmp_path / "train_caps.txt")


# ---- vocabularies

SPECIAL = ["<pad>", "<start>", "<end>", "<unk>"]


@pytest.mark.parametrize(
    "content",
    [
        {"word2idx": {word: n for n, word in enumerate([*SPECIAL, "cat", "'s"])}, "idx2word": {}, "idx": 6},
        {"'s": 5, **{word: n for n, word in enumerate([*SPECIAL, "cat"])}},
        {"cat": 0, "'s": 1},
        [*SPECIAL, "cat", "'s"],
        ["cat", "'s"],
        {"format": "aoq_ext.vocabulary/1", "words": ["cat", "'s"]},
    ],
)
def test_released_vocabularies(tmp_path: Path, content: object) -> None:
    path = tmp_path / "coco_precomp_vocab.json"
    path.write_text(json.dumps(content))
    vocabulary = read_vocabulary(path)
    assert vocabulary == Vocabulary(["cat", "'s"])
    assert Vocabulary.load(vocabulary.save(tmp_path / "own.json")) == vocabulary


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "expected a vocabulary as JSON, got "),
        (b'{"a": "b"}', "got other JSON"),
        (b"{}", "got other JSON"),
        (b'{"a": 0, "b": 2}', "expected the numbers 0 to 1, each once, got 0 to 2 for 2 words"),
        (b'["a", "<pad>"]', "as the first words, in this order, or none of them, got <pad> as number 1"),
        (b'["a", "a"]', "'a' twice"),
        (b'["a", "b\'two", "b\\"the"]', "got 2 that begin like printed bytes, such as b'two"),
        (pickle.dumps({"a": 0}), "got a pickle, which is not read because it can run any code; build one"),
    ],
)
def test_other_vocabularies_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_vocabulary(path)
    assert message in str(caught.value)
    assert "Vocabulary.build" in str(caught.value)


def test_a_pickle_by_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "coco_precomp_vocab.pkl"
    path.write_bytes(pickle.dumps({"a": 0}, protocol=0))
    with pytest.raises(DataError, match="got a pickle"):
        read_vocabulary(path)
    with pytest.raises(DataError, match="got no such file"):
        read_vocabulary(tmp_path / "missing.json")


# ---- images that are not in memory


def test_subsets_stay_on_the_disk(folder: Path) -> None:
    data = load_precomputed("dev", folder)
    view = data.subset(range(2, 12, 3))
    assert is_mapped(view.images)
    np.testing.assert_array_equal(view.images, data.images[[2, 5, 8, 11]])
    picked = data.subset([7, 1, 4])
    assert isinstance(picked.images, SelectedRows)
    assert isinstance(picked.images, ImageRows)
    assert picked.images.shape == (3, 6, 32)
    assert picked.images.nbytes == 3 * 6 * 32 * 4
    np.testing.assert_array_equal(np.asarray(picked.images), data.images[[7, 1, 4]])
    np.testing.assert_array_equal(picked.images[-1], data.images[4])
    np.testing.assert_array_equal(picked.images[1:], data.images[[1, 4]])
    np.testing.assert_array_equal(picked.images[np.array([True, False, True])], data.images[[7, 4]])
    assert picked.captions_of(1) == data.captions_of(1)
    with pytest.raises(IndexError):
        picked.images[3]
    assert len(data.subset([])) == 0


def test_fingerprints_are_of_content(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_precomputed("train", folder)
    known = fingerprint_images(data.images)
    assert known == fingerprint_images(np.array(data.images))
    assert known == fingerprint_images(load_precomputed("train", shutil.copytree(folder, tmp_path / "copy")).images)
    monkeypatch.setattr("aoq_ext.data.image_rows.HASHED_WHOLE_BYTES", 1000)
    sampled = fingerprint_images(data.images)
    assert sampled != known
    os.utime(folder / "train_ims.npy", (1, 1))
    assert sampled == fingerprint_images(load_precomputed("train", folder).images)
    changed = np.array(data.images)
    changed[-1, -1, -1] += 1
    assert sampled != fingerprint_images(changed)
    chosen = [fingerprint_images(data.subset(rows).images) for rows in ([0, 3, 1], [0, 1, 3], [1, 0, 3])]
    assert len({*chosen, sampled}) == 4


def test_small_images_are_fingerprinted_whole(folder: Path) -> None:
    """Lists mined over data in memory keep their fingerprints."""
    images = np.array(load_precomputed("train", folder).images)
    assert fingerprint_images(images) == hashlib.sha256(b"float32(40, 6, 32)" + images.tobytes()).hexdigest()


@pytest.mark.parametrize("step", [1, 5])
def test_rows_that_are_prefetched_are_the_rows(tmp_path: Path, step: int) -> None:
    np.save(tmp_path / "a.npy", np.arange(20 * 5 * 4099, dtype=np.float32).reshape(20, 5, 4099))  # rows of 82 KB
    images = np.load(tmp_path / "a.npy", mmap_mode="r")[1::step]
    rows = np.array([len(images) - 1, 0, 2])
    for view in (images, images[1:], images[:, ::2], np.asfortranarray(images)):
        chosen = rows[rows < len(view)]
        np.testing.assert_array_equal(read_rows(view, chosen), np.array(view)[chosen])
    with pytest.raises(IndexError):
        read_rows(images, np.array([1, 30]))


def test_a_large_file_is_fingerprinted_by_a_few_rows(tmp_path: Path) -> None:
    path = tmp_path / "train_ims.npy"
    images = 4_000
    large = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(images, 36, 2048))  # sparse: 1.2 GB
    large[-1] = 1
    del large
    write_captions(tmp_path, "train", ["a cat"] * 5 * images)
    data = load_precomputed("train", tmp_path)
    assert data.images.nbytes > HASHED_WHOLE_BYTES
    read = 0

    class Watched(LazyRows):
        def _read(self, rows: np.ndarray) -> np.ndarray:
            nonlocal read
            read += len(rows)
            return data.images[rows]

    watched = Watched(data.images.shape, data.images.dtype)
    assert fingerprint_images(watched) == fingerprint_images(data.images)
    assert read == SAMPLED_ROWS
    assert data.images[np.array([images - 1, 0])].sum() == 36 * 2048


def test_training_reads_rows_as_tensors(folder: Path) -> None:
    pytest.importorskip("lightning_fabric")
    from aoq_ext.training.config import DataConfig
    from aoq_ext.training.pairs import EncodedPairs, load_split
    from aoq_ext.training.step import RowNumbers

    config = DataConfig(loader="aoq_ext.data.load_precomputed", root=str(folder))
    data = load_split(config, "train")
    pairs = EncodedPairs(data, Vocabulary.build(data.captions))
    images = pairs.rows(RowNumbers(np.array([3, 3, 1]), np.array([3, 3, 1]), 3)).images
    np.testing.assert_array_equal(images.numpy(), features_of(40, 0)[[3, 3, 1]])
    assert pairs.tokens.shape == (200, 9)
    picked = EncodedPairs(data.subset([8, 2, 5]), Vocabulary.build(data.captions))
    assert picked.rows(RowNumbers(np.array([2]), np.array([2]), 1)).images.shape == (1, 6, 32)
