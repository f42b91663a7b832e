"""The bundled emoji data: small pictures in five drawing styles, each with five captions.

A *concept* is one emoji ("hot pepper"); a *style* is the set of drawings it comes from. Concepts are divided into
training, validation and test concepts. The styles noto, twemoji, fluent and emojione are trained on; openmoji never is.
The splits:

``train``
    The training concepts in the four training styles, where a style has them.
``val``, ``test``
    Unseen concepts, one picture each, in noto, twemoji or fluent: which one was drawn once, by a hash of the emoji.
``test_noto``, ``test_twemoji``, ``test_fluent``
    The same test concepts, all in the one style.
``test_openmoji``
    The same test concepts in the unseen style: neither word nor drawing was seen in training.
``test_style``
    400 training concepts in the unseen style: their captions were seen in training, these drawings were not.

Every evaluation split has one picture per concept and no caption twice, so a caption has one right picture and a
picture five right captions. ``emoji/README.md`` beside this file says how it was made, ``emoji/LICENSES.md`` by whom.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from aoq_ext.data.errors import DataError
from aoq_ext.data.image_text import ImageTextData

EMOJI_ROOT = Path(__file__).parent / "emoji"
TEST_STYLES = ("noto", "twemoji", "fluent")
TRAINING_STYLES = (*TEST_STYLES, "emojione")
UNSEEN_STYLE = "openmoji"
SPLITS = ("train", "val", "test", "test_noto", "test_twemoji", "test_fluent", "test_openmoji", "test_style")

ARCHIVE = "emoji.zip"
CHECKSUMS = "SHA256SUMS"
_CURE = "reinstall aoq_ext, or make the file again with tools/build_emoji_data.py"


def load_emoji(split: str = "train", root: str | Path | None = None) -> ImageTextData:
    """One split of the bundled data; images (N, 3, 32, 32) uint8 on a white ground, five captions each.

    ``root`` is the folder with ``emoji.zip`` and ``SHA256SUMS``; by default the one inside the package. ValueError for
    an unknown split; DataError for a missing or damaged file. Reads no network and no pickle.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}; got {split!r}")
    folder = EMOJI_ROOT if root is None else Path(root)
    index, pixels = _read_archive(folder)
    concepts, styles = index["concepts"], index["styles"]
    shown = [
        (row, concepts[concept], concept, styles[style])
        for row, (concept, style) in enumerate(index["images"])
        if _belongs(concepts[concept], styles[style], split)
    ]
    return ImageTextData(
        images=decode_pixels(pixels[[row for row, *_ in shown]]),
        captions=[caption for _, concept, *_ in shown for caption in concept["captions"]],
        caption_image=np.repeat(np.arange(len(shown)), [len(concept["captions"]) for _, concept, *_ in shown]),
        group_ids=np.array([group for *_, group, _ in shown], dtype=np.int64),
        image_names=[f"{concept['name']} ({style})" for _, concept, _, style in shown],
        name=f"emoji/{split}",
    )


def _belongs(concept: dict[str, Any], style: str, split: str) -> bool:
    """Whether the picture of ``concept`` in ``style`` is part of ``split``."""
    part: str = concept["split"]
    if split == "train":
        return part == "train" and style in TRAINING_STYLES
    if split == "test_style":
        return part == "train" and style == UNSEEN_STYLE
    shown: str = concept.get("style", "") if split in ("val", "test") else split.removeprefix("test_")
    return part == split.split("_")[0] and style == shown


def _read_archive(folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The index and the coded pixels, (N, 3, 32, 32) uint8, of the archive in ``folder``, its checksum compared."""
    path = folder / ARCHIVE
    try:
        content = path.read_bytes()
        recorded = (folder / CHECKSUMS).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the emoji data in {folder}: {error}; {_CURE}") from error
    expected = dict(zip(recorded[1::2], recorded[::2], strict=False)).get(ARCHIVE)
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DataError(
            f"{path} is damaged: expected SHA-256 {expected} (from {CHECKSUMS}), got {actual} "
            f"from {len(content)} bytes; {_CURE}"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        index = json.loads(archive.read("index.json"))
        pixels = np.load(io.BytesIO(archive.read("pixels.npy")), allow_pickle=False)
    return index, pixels


def encode_pixels(images: np.ndarray) -> np.ndarray:
    """Code images (N, 3, H, W) uint8 so that they compress well; the inverse is `decode_pixels`.

    Colours are rounded to 6 bits; red and blue become differences from green; each value becomes the difference from
    its left neighbour. All arithmetic is modulo 64.
    """
    coded = ((images.astype(np.uint16) * 63 + 127) // 255).astype(np.uint8)
    coded[:, 0] -= coded[:, 1]
    coded[:, 2] -= coded[:, 1]
    return np.diff(coded, axis=-1, prepend=np.uint8(0)) & 63


def decode_pixels(coded: np.ndarray) -> np.ndarray:
    """The images (N, 3, H, W) uint8, with 64 levels from 0 to 255, that `encode_pixels` coded."""
    values = np.cumsum(coded, axis=-1, dtype=np.uint8)
    values[:, 0] += values[:, 1]
    values[:, 2] += values[:, 1]
    values &= 63
    return (values << 2) | (values >> 4)
