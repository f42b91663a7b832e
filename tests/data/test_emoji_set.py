"""The bundled emoji data, the data type, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from aoq_ext._files import write_atomically, write_bytes_atomically, write_json
from aoq_ext.data import EMOJI_SPLITS, DataError, ImageTextData, load_emoji, tokenize
from aoq_ext.data.emoji_set import ARCHIVE, CHECKSUMS, EMOJI_ROOT, decode_pixels, encode_pixels

EVALUATION = [split for split in EMOJI_SPLITS if split != "train"]
IMAGES = {split: 320 for split in EMOJI_SPLITS} | {"train": 4803, "val": 160, "test_style": 400}


@pytest.fixture(scope="module")
def emoji() -> dict[str, ImageTextData]:
    return {split: load_emoji(split) for split in EMOJI_SPLITS}


@pytest.fixture
def copied_root(tmp_path: Path) -> Path:
    for name in (ARCHIVE, CHECKSUMS):
        shutil.copy(EMOJI_ROOT / name, tmp_path / name)
    return tmp_path


def small_data(**changes) -> ImageTextData:
    fields = {
        "images": np.arange(3 * 12, dtype=np.uint8).reshape(3, 3, 2, 2),
        "captions": ["a cat", "one cat", "a dog", "a cow"],
        "caption_image": np.array([0, 0, 1, 2]),
        "group_ids": np.array([7, 7, 8]),
        "image_names": ["cat", "dog", "cow"],
        "name": "farm",
    }
    return ImageTextData(**(fields | changes))


# ---- the bundled set


@pytest.mark.parametrize("split", EMOJI_SPLITS)
def test_counts_shapes_and_five_captions(emoji, split):
    data = emoji[split]
    assert data.name == f"emoji/{split}"
    assert data.images.shape == (IMAGES[split], 3, 32, 32)
    assert data.images.dtype == np.uint8
    assert len(data) == IMAGES[split]
    assert len(data.captions) == 5 * len(data)
    np.testing.assert_array_equal(data.caption_image, np.repeat(np.arange(len(data)), 5))
    assert len(set(data.image_names)) == len(data)
    words = [[tuple(tokenize(caption)) for caption in data.captions_of(index)] for index in range(len(data))]
    assert all(len(set(five)) == 5 and all(five) for five in words)


def test_splits_share_no_concept(emoji):
    concepts = {split: set(data.group_ids.tolist()) for split, data in emoji.items()}
    assert len(concepts["train"]) == 1359
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not concepts[one] & concepts[other]
    assert all(concepts[f"test_{style}"] == concepts["test"] for style in ("noto", "twemoji", "fluent", "openmoji"))
    assert concepts["test_style"] < concepts["train"]


def test_unseen_style_is_in_its_own_splits_only(emoji):
    seen = {split for split, data in emoji.items() if any(name.endswith("(openmoji)") for name in data.image_names)}
    assert seen == {"test_openmoji", "test_style"}
    assert all(name.endswith("(openmoji)") for split in seen for name in emoji[split].image_names)


@pytest.mark.parametrize("split", EVALUATION)
def test_evaluation_is_unambiguous(emoji, split):
    """One picture per concept, no picture and no caption twice: every query has a well-defined answer."""
    data = emoji[split]
    assert len(np.unique(data.group_ids)) == len(data)
    assert len({tuple(tokenize(caption)) for caption in data.captions}) == len(data.captions)
    if split != "test_style":
        assert len(np.unique(data.images.reshape(len(data), -1), axis=0)) == len(data)


def test_pictures_of_a_concept_share_their_captions(emoji):
    train = emoji["train"]
    first: dict[int, list[str]] = {}
    for index, group in enumerate(train.group_ids.tolist()):
        assert train.captions_of(index) == first.setdefault(group, train.captions_of(index))


def test_known_content(emoji):
    test = emoji["test_noto"]
    chart = test.image_names.index("chart increasing (noto)")
    assert test.captions_of(chart)[:3] == [
        "chart increasing",
        "chart increasing, data, graph, growth",
        "chart with upwards trend",
    ]
    heart = emoji["test_twemoji"].images[emoji["test_twemoji"].image_names.index("heart suit (twemoji)")]
    assert tuple(heart[:, 0, 0]) == (255, 255, 255)
    red, green, blue = heart[:, 14, 16].astype(int)
    assert red > 150 > max(green, blue) + 50


def test_loading_is_quick_and_repeatable(emoji):
    start = time.perf_counter()
    again = load_emoji("train")
    assert time.perf_counter() - start < 5
    np.testing.assert_array_equal(again.images, emoji["train"].images)
    assert again.captions == emoji["train"].captions


def test_pixel_code_is_inverted():
    levels = np.arange(64)
    images = np.random.default_rng(0).choice((levels << 2) | (levels >> 4), size=(5, 3, 8, 7)).astype(np.uint8)
    np.testing.assert_array_equal(decode_pixels(encode_pixels(images)), images)
    fine = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(3, axis=1)
    assert np.abs(decode_pixels(encode_pixels(fine)).astype(int) - fine).max() <= 3


# ---- damage


def test_checksum_is_that_of_the_file():
    digest, name = (EMOJI_ROOT / CHECKSUMS).read_text().split()
    assert name == ARCHIVE
    assert hashlib.sha256((EMOJI_ROOT / ARCHIVE).read_bytes()).hexdigest() == digest


def test_another_root(copied_root, emoji):
    np.testing.assert_array_equal(load_emoji("val", root=str(copied_root)).images, emoji["val"].images)


def test_flipped_byte(copied_root):
    path = copied_root / ARCHIVE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_emoji(root=copied_root)
    expected = (copied_root / CHECKSUMS).read_text().split()[0]
    for part in (str(path), expected, hashlib.sha256(content).hexdigest(), "reinstall", "build_emoji_data.py"):
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [0, 1000])
def test_truncated_file(copied_root, size):
    path = copied_root / ARCHIVE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=f"is damaged: expected SHA-256 .* from {size} bytes"):
        load_emoji(root=copied_root)


@pytest.mark.parametrize("name", [ARCHIVE, CHECKSUMS])
def test_missing_file(copied_root, name):
    (copied_root / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*reinstall"):
        load_emoji(root=copied_root)


def test_empty_checksum_file(copied_root):
    (copied_root / CHECKSUMS).write_text("")
    with pytest.raises(DataError, match="expected SHA-256 None"):
        load_emoji(root=copied_root)


def test_wrong_split_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"split: expected one of train, val, test, .*test_style; got 'dev'"):
        load_emoji("dev")


def test_size_and_licences():
    files = [path for path in EMOJI_ROOT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    overview = (EMOJI_ROOT / "LICENSES.md").read_text(encoding="utf-8")
    for work in (
        "Noto Emoji",
        "Twemoji",
        "Fluent Emoji",
        "EmojiOne",
        "OpenMoji",
        "Unicode CLDR",
        "emojilib",
        "emojibase",
    ):
        assert work in overview
    texts = [path.name for path in EMOJI_ROOT.glob("LICENSE-*.txt")]
    assert len(texts) == 9
    assert all(f"({name})" in overview for name in texts)
    assert (EMOJI_ROOT / "README.md").is_file()


# ---- ImageTextData


def test_captions_of_and_subset():
    data = small_data()
    assert len(data) == 3
    assert data.captions_of(0) == ["a cat", "one cat"]
    assert data.captions_of(2) == ["a cow"]
    part = data.subset([2, 0], name="part")
    assert part.captions == ["a cow", "a cat", "one cat"]
    assert part.image_names == ["cow", "cat"]
    assert part.name == "part"
    assert part.caption_image.tolist() == [0, 1, 1]
    assert part.group_ids.tolist() == [8, 7]
    np.testing.assert_array_equal(part.images, data.images[[2, 0]])
    assert len(data.subset([])) == 0


@pytest.mark.parametrize("wrong", [[0, 3], [-1]])
def test_subset_refuses_indices_out_of_range(wrong):
    with pytest.raises(IndexError, match="image_indices: expected 0 to 2"):
        small_data().subset(wrong)


def test_subset_refuses_repeats_and_captions_of_refuses_strangers():
    with pytest.raises(ValueError, match="at most once"):
        small_data().subset([1, 1])
    with pytest.raises(IndexError, match="image_index: expected 0 to 2, got 3"):
        small_data().captions_of(3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros(3)}, ValueError, "images: .*shape"),
        ({"caption_image": np.array([0, 0, 1])}, ValueError, r"caption_image: expected shape \(4,\)"),
        ({"caption_image": np.array([0, 0, 1, 3])}, ValueError, r"caption_image: expected indices in \[0, 3\)"),
        ({"caption_image": np.array([0, 1, 0, 2])}, ValueError, "caption_image: expected non-decreasing"),
        ({"caption_image": np.array([0, 0, 1, 2], dtype=np.int32)}, TypeError, "caption_image: .*int64.*int32"),
        ({"caption_image": [0, 0, 1, 2]}, TypeError, "caption_image: .*int64 array, got list"),
        ({"group_ids": np.array([1, 2])}, ValueError, r"group_ids: expected shape \(3,\)"),
        ({"image_names": ["cat"]}, ValueError, "image_names: .*3, got 1"),
        ({"captions": ["a", "b", b"c", "d"]}, TypeError, "captions: expected str, got bytes at 2"),
    ],
)
def test_wrong_fields_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        small_data(**changes)


# ---- atomic files


def test_atomic_write_replaces_and_makes_folders(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    assert write_bytes_atomically(path, b"old") == path
    assert path.read_bytes() == b"old"
    path.chmod(0o640)
    write_atomically(str(path), lambda file: np.save(file, np.arange(3)))
    assert np.load(path).tolist() == [0, 1, 2]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_json_of_any_text_reads_back(tmp_path):
    content = {"caption": "猫", "file": "caf\udce9.npy"}  # as the system gives a name in Latin-1
    written = write_json(tmp_path / "file.json", content).read_bytes()
    assert "猫".encode() in written
    assert json.loads(written) == content


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def writer(file):
        file.write(b"half of the new conte")
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        write_atomically(path, writer)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.bin"]


def test_a_full_disk_is_reported_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fill(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(path, fill)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
