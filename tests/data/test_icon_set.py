"""The bundled icons, the data type, and files that are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from aoq_ext._files import write_atomically, write_bytes_atomically, write_json
from aoq_ext.data import ICON_SPLITS, DataError, ImageTextData, load_icons
from aoq_ext.data.icon_set import (
    CHECKSUMS,
    ICONS_ROOT,
    INDEX,
    LEVELS,
    PIXELS,
    _index,
    _stamp,
    pack_pixels,
    unpack_pixels,
)

EVALUATION = [split for split in ICON_SPLITS if split != "train"]
COUNTS = {  # images, captions, groups
    "train": (100592, 121418, 30950),
    "val": (1000, 1248, 1000),
    "test": (5000, 6001, 5000),
    "test_things": (1000, 1284, 1000),
    "test_iconoir": (1230, 1497, 1230),
    "test_healthicons": (713, 997, 713),
}
UNSEEN = {"test_iconoir": "iconoir", "test_healthicons": "healthicons"}
PERMISSIVE = {"MIT", "ISC", "Apache-2.0", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"}
TOOLS = Path(__file__).parents[2] / "tools/icons"


@pytest.fixture(scope="module")
def icons() -> dict[str, ImageTextData]:
    return {split: load_icons(split) for split in ICON_SPLITS}


@pytest.fixture(scope="module")
def sets() -> list[dict[str, str]]:
    return _index(ICONS_ROOT, _stamp(ICONS_ROOT))["sets"]


@pytest.fixture
def copied_root(tmp_path: Path) -> Path:
    for name in (PIXELS, INDEX, CHECKSUMS):
        shutil.copy(ICONS_ROOT / name, tmp_path / name)
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


@pytest.mark.parametrize("split", ICON_SPLITS)
def test_counts_and_shapes(icons, split):
    data = icons[split]
    images, captions, groups = COUNTS[split]
    assert data.name == f"icons/{split}"
    assert data.images.shape == (images, 1, 32, 32)
    assert data.images.dtype == np.uint8
    assert (len(data), len(data.captions), len(np.unique(data.group_ids))) == (images, captions, groups)
    assert np.unique(data.images).tolist() == [0, 85, 170, 255]
    assert np.unique(data.caption_image).tolist() == list(range(images))
    assert len(set(data.image_names)) == len(data)
    assert all(data.captions)


def test_counts_stand_in_the_description(icons):
    text = (ICONS_ROOT / "README.md").read_text(encoding="utf-8")
    for split, counts in COUNTS.items():
        assert f"| `{split}` | " + " | ".join(f"{count:,}" for count in counts) + " |" in text


def test_held_out_names_and_things_are_not_trained(icons):
    """Names are new, of things that are in training; no thing is held out twice."""
    groups = {split: set(icons[split].group_ids.tolist()) for split in ("train", "val", "test", "test_things")}
    assert groups["val"] | groups["test"] <= groups["train"]
    assert not groups["val"] & groups["test"] and not groups["test_things"] & groups["train"]
    trained = {" ".join(sorted(icons["train"].captions_of(row)[0].split())) for row in range(len(icons["train"]))}
    for split in ("val", "test"):
        held_out = icons[split]
        assert not trained & {" ".join(sorted(held_out.captions_of(row)[0].split())) for row in range(len(held_out))}


def test_unseen_sets_are_in_their_own_splits_only(icons):
    for split, data in icons.items():
        of_set = {name.rpartition(" (")[2].rstrip(")") for name in data.image_names}
        assert of_set == {UNSEEN[split]} if split in UNSEEN else not of_set & set(UNSEEN.values())


@pytest.mark.parametrize("split", EVALUATION)
def test_evaluation_is_unambiguous(icons, split):
    """One picture a group, no picture and no caption twice: every query has a well-defined answer."""
    data = icons[split]
    assert len(np.unique(data.group_ids)) == len(data)
    assert len(set(data.captions)) == len(data.captions)
    assert len(np.unique(data.images.reshape(len(data), -1), axis=0)) == len(data)


def test_test_has_folds_of_any_kind(icons):
    """Its order is random: every fold of 1,000 has pictures of most sets."""
    names = [name.rpartition(" (")[2] for name in icons["test"].image_names]
    assert all(len(set(names[first : first + 1000])) > 35 for first in range(0, 5000, 1000))


def test_known_content(icons):
    val = icons["val"]
    receipt = val.image_names.index("receipt-pound-filled (tabler)")
    keywords = "receipt bill invoice pound gbp sterling payment currency"
    assert val.captions_of(receipt) == ["receipt pound filled", keywords]
    train = icons["train"]
    book = [row for row, name in enumerate(train.image_names) if name.startswith("account-book-")]
    assert len(set(train.group_ids[book].tolist())) == 1
    assert all(train.captions_of(row)[0].startswith("account book") for row in book)
    filled = train.images[train.image_names.index("square-filled (tabler)"), 0]
    assert filled[16, 16] == 0 and filled[0, 0] == 255


def test_loading_is_repeatable(icons):
    again = load_icons("train")
    np.testing.assert_array_equal(again.images, icons["train"].images)
    assert again.captions == icons["train"].captions


def test_what_is_kept_between_splits_cannot_be_changed_through_them(icons):
    first = load_icons("val")
    first.images[:] = 0
    first.group_ids[:] = 0
    again = load_icons("val")
    np.testing.assert_array_equal(again.images, icons["val"].images)
    np.testing.assert_array_equal(again.group_ids, icons["val"].group_ids)


def test_some_of_the_training_images(icons):
    some = load_icons("train", images=100)
    assert len(some) == 100
    rows = [icons["train"].image_names.index(name) for name in some.image_names]
    assert rows == sorted(rows)
    np.testing.assert_array_equal(some.images, icons["train"].images[rows])
    assert some.image_names == load_icons("train", images=100).image_names
    assert set(some.image_names) < set(load_icons("train", images=200).image_names)
    assert len(load_icons("val", images=100)) == COUNTS["val"][0]


@pytest.mark.parametrize("images", [1, COUNTS["train"][0] + 1])
def test_a_number_of_images_out_of_range(images):
    with pytest.raises(ValueError, match=f"images: expected 2 to 100592, got {images}"):
        load_icons("train", images=images)


def test_packing_is_inverted():
    values = np.random.default_rng(0).integers(0, LEVELS, (5, 32, 32), dtype=np.uint8)
    packed = pack_pixels(values)
    assert packed.shape == (5, 32, 8)
    np.testing.assert_array_equal(unpack_pixels(packed), values)


# ---- damage


@pytest.mark.parametrize("name", [PIXELS, INDEX])
def test_checksums_are_those_of_the_files(name):
    digest = hashlib.sha256((ICONS_ROOT / name).read_bytes()).hexdigest()
    assert f"{digest}  {name}" in (ICONS_ROOT / CHECKSUMS).read_text().splitlines()


def test_another_root(copied_root, icons):
    np.testing.assert_array_equal(load_icons("val", root=str(copied_root)).images, icons["val"].images)


@pytest.mark.parametrize("name", [PIXELS, INDEX])
def test_flipped_byte_after_a_first_reading(copied_root, name):
    load_icons("val", root=copied_root)
    path = copied_root / name
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_icons("val", root=copied_root)
    for part in (str(path), expected, hashlib.sha256(content).hexdigest(), "reinstall", "tools/icons/build.py"):
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [0, 1000])
def test_truncated_file(copied_root, size):
    path = copied_root / PIXELS
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=f"is damaged: expected SHA-256 .* from {size} bytes"):
        load_icons(root=copied_root)


@pytest.mark.parametrize("name", [PIXELS, INDEX, CHECKSUMS])
def test_missing_file(copied_root, name):
    (copied_root / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*reinstall"):
        load_icons(root=copied_root)


def test_empty_checksum_file(copied_root):
    (copied_root / CHECKSUMS).write_text("")
    with pytest.raises(DataError, match="expected SHA-256 None"):
        load_icons(root=copied_root)


def test_wrong_split_names_the_valid_ones():
    with pytest.raises(ValueError, match=r"split: expected one of train, val, test, .*test_healthicons; got 'dev'"):
        load_icons("dev")


# ---- licences


def test_every_set_is_free_and_named(sets):
    overview = (ICONS_ROOT / "LICENSES.md").read_text(encoding="utf-8")
    assert len(sets) == 45
    assert {each["licence"] for each in sets} <= PERMISSIVE
    for each in sets:
        row = next(line for line in overview.splitlines() if line.startswith(f"| {each['name']} |"))
        assert all(each[entry] in row for entry in ("title", "source", "author", "version", "licence"))
        if each["licence"] in ("MIT", "ISC"):
            assert f"Copyright (c) {each['author']} ({each['title']})" in overview
    assert "THE SOFTWARE IS PROVIDED" in overview
    for path in ICONS_ROOT.glob("LICENSE-*.txt"):
        assert f"({path.name})" in overview


def test_the_overview_of_licences_is_what_the_tool_writes(sets):
    overview = runpy.run_path(str(TOOLS / "licences.py"))["overview"]
    assert (ICONS_ROOT / "LICENSES.md").read_text(encoding="utf-8") == overview(sets)


def test_the_data_is_small():
    assert sum(path.stat().st_size for path in ICONS_ROOT.rglob("*") if path.is_file()) <= 20_000_000


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
