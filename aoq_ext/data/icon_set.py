"""The bundled data: icons of many free sets, each with the words that name it.

A *group* is one thing shown, by its name ("account arrow down"): the same words in any order, other names of the same
drawing, and equal pictures are one group, whatever the style. The splits:

``train``
    Pictures of the training sets.
``val`` (1,000), ``test`` (5,000)
    Unseen pictures, most by unseen names ("account arrow down outline"); the thing itself is in training, by another
    name, in another style or another set.
``test_things`` (1,000)
    Things that training never shows, whose names are put together from known words.
``test_iconoir``, ``test_healthicons``
    One picture per group of a set that training never sees.

Evaluation splits have one picture per group and no caption twice, so a caption has one right picture. They are in a
random order: five equal parts of ``test`` are folds of 1,000, as COCO's 1K test images. ``icons/README.md`` beside this
file says how it was made, ``icons/LICENSES.md`` by whom.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext._scalars import as_int
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_text import ImageTextData

ICONS_ROOT = Path(__file__).parent / "icons"
SPLITS = ("train", "val", "test", "test_things", "test_iconoir", "test_healthicons")

PIXELS, INDEX, CHECKSUMS = "pixels.xz", "index.json.xz", "SHA256SUMS"
SIDE, LEVELS = 32, 4
_PER_BYTE = 4
_CURE = "reinstall aoq_ext, or make the file again with tools/icons/build.py"


def load_icons(split: str = "train", root: str | Path | None = None, images: int | None = None) -> ImageTextData:
    """One split of the bundled data; images (N, 1, 32, 32) uint8, black on white in four levels of grey.

    Args:
        root: the folder with the data; by default the one inside the package.
        images: so many of the training images, drawn once and for all; by default every one.

    ValueError for an unknown split or a number out of range; DataError for a missing or damaged file. Reads no network
    and no pickle.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}; got {split!r}")
    folder = ICONS_ROOT if root is None else Path(root)
    stamp = _stamp(folder)
    index = _index(folder, stamp)
    rows = np.flatnonzero(index["split"] == index["splits"].index(split))
    if split == "train" and images is not None:
        rows = _some(rows, as_int("images", images))
    packed = _pixels(folder, stamp)[rows]
    captions: list[list[str]] = [index["captions"][row] for row in rows]
    sets = [each["name"] for each in index["sets"]]
    return ImageTextData(
        images=unpack_pixels(packed)[:, None] * np.uint8(255 // (LEVELS - 1)),
        captions=[caption for own in captions for caption in own],
        caption_image=np.repeat(np.arange(len(rows)), [len(own) for own in captions]),
        group_ids=index["group"][rows],
        image_names=[f"{index['name'][row]} ({sets[index['set'][row]]})" for row in rows],
        name=f"icons/{split}",
    )


def _some(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if not 2 <= count <= len(rows):
        raise ValueError(f"images: expected 2 to {len(rows)}, got {count}")
    return np.sort(np.random.default_rng(0).permutation(rows)[:count])


def _stamp(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Changes with any of the files; one that is missing is left to `_read` to refuse."""
    paths = [folder / name for name in (PIXELS, INDEX, CHECKSUMS)]
    return tuple((path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in paths)


# What the files hold is kept for the next split: reading it takes a second.
@lru_cache(maxsize=1)
def _index(folder: Path, stamp: object) -> dict[str, Any]:
    index: dict[str, Any] = json.loads(_read(folder, INDEX))
    return index | {name: np.array(index[name], dtype=np.int64) for name in ("split", "group")}


@lru_cache(maxsize=1)
def _pixels(folder: Path, stamp: object) -> NDArray[np.uint8]:
    return np.frombuffer(_read(folder, PIXELS), dtype=np.uint8).reshape(-1, SIDE, SIDE // _PER_BYTE)


def _read(folder: Path, name: str) -> bytes:
    """What the file holds, its checksum compared."""
    path = folder / name
    try:
        content = path.read_bytes()
        recorded = (folder / CHECKSUMS).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the icons in {folder}: {error}; {_CURE}") from error
    expected = dict(zip(recorded[1::2], recorded[::2], strict=False)).get(name)
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DataError(
            f"{path} is damaged: expected SHA-256 {expected} (from {CHECKSUMS}), got {actual} "
            f"from {len(content)} bytes; {_CURE}"
        )
    return lzma.decompress(content)


def pack_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 32, 32) values from 0 to 3 -> (N, 32, 8), four in a byte; the inverse is `unpack_pixels`."""
    parts = [pixels[..., place::_PER_BYTE] << np.uint8(2 * place) for place in range(_PER_BYTE)]
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(parts)
    return packed


def unpack_pixels(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 32, 8) -> (N, 32, 32)"""
    places = np.arange(0, 2 * _PER_BYTE, 2, dtype=np.uint8)
    values: NDArray[np.uint8] = packed[..., None] >> places & np.uint8(LEVELS - 1)
    return values.reshape(*packed.shape[:-1], -1)
