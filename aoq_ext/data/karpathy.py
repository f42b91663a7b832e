"""Karpathy's splits of MS-COCO, Flickr30K and Flickr8K, with the original pictures, for encoders of pixels.

``dataset_coco.json`` lists images, each with ``filename``, ``split`` (train, restval, val, test), ``sentences`` (of
which ``raw`` is the text) and, for COCO, ``filepath``: the folder (train2014, val2014) that the picture is in. The
pictures lie beside the JSON, or in its folder ``images`` or ``flickr30k-images``. docs/data.md says where to get them.
"""

from __future__ import annotations

import json as json_module
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from aoq_ext._files import visible
from aoq_ext._scalars import as_positive
from aoq_ext.data.captions import check_text
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_text import ImageTextData
from aoq_ext.data.pictures import Pictures

CAPTIONS_PER_IMAGE = 5
PICTURE_FOLDERS = ("", "images", "flickr30k-images", "flickr30k_images", "Flicker8k_Dataset")
TRAIN, RESTVAL = "train", "restval"
_MOST_NAMED = 3


@dataclass(frozen=True)
class Entry:
    """One image of the JSON file."""

    number: int  # its place in the file, from 0
    path: str  # below the folder of pictures: "val2014/COCO_val2014_000000000042.jpg"
    split: str
    captions: list[str]


def load_karpathy(
    split: str,
    root: str | Path = ".",
    json: str | Path | None = None,
    *,
    restval: bool = True,
    captions_per_image: int | None = CAPTIONS_PER_IMAGE,
    pictures: str | Path | None = None,
    size: int = 224,
    shorter_side: int | None = None,
    threads: int | None = None,
    name: str | None = None,
) -> ImageTextData:
    """One split; its images are an array-like (N, 3, size, size) uint8 that decodes the pictures asked for.

    Args:
        split: train, val, test; restval alone where the file has it.
        root: the folder with the JSON file and the pictures.
        json: the file; by default the only ``dataset_*.json`` in root.
        restval: train also on the images that COCO's splits call restval, as the published results do.
        captions_per_image: the first so many of each image, as in the published protocols (a few COCO images have six
            or seven); None: all of them.
        pictures: the folder of the pictures; by default looked for below root.
        size, shorter_side, threads: see `Pictures`.
        name: what the data set is called; by default as the file, ``coco/train`` for ``dataset_coco.json``.

    DataError for files that are missing or not what they should be: every picture is looked up, none is decoded.
    """
    if captions_per_image is not None:
        captions_per_image = as_positive("captions_per_image", captions_per_image, "number or None")
    path = find_json(root, json)
    entries = read_entries(path)
    parts = {split, RESTVAL} if split == TRAIN and restval else {split}
    chosen = [entry for entry in entries if entry.split in parts]
    if not any(entry.split == split for entry in chosen):
        found = ", ".join(sorted({entry.split for entry in entries})) or "none"
        raise ValueError(f"split: expected one of {found} (in {path}), got {split!r}")
    captions = [_captions(path, entry, captions_per_image) for entry in chosen]
    folder = find_pictures(root, path, [entry.path for entry in chosen], pictures)
    if missing := missing_pictures(folder, [entry.path for entry in chosen]):
        raise DataError(
            f"{folder}: expected the pictures of all {len(chosen)} images of {split!r}, got none for {len(missing)}, "
            f"such as {', '.join(missing[:_MOST_NAMED])}; unpack the pictures there, or name their folder as pictures"
        )
    return ImageTextData(
        images=cast(np.ndarray, Pictures([folder / entry.path for entry in chosen], size, shorter_side, threads)),
        captions=[caption for group in captions for caption in group],
        caption_image=np.repeat(np.arange(len(chosen)), [len(group) for group in captions]).astype(np.int64),
        group_ids=np.arange(len(chosen), dtype=np.int64),
        image_names=[Path(entry.path).name for entry in chosen],
        name=f"{name or path.stem.removeprefix('dataset_')}/{split}",
    )


def find_json(root: str | Path, json: str | Path | None = None) -> Path:
    """The JSON file given, below ``root`` or not, or the only ``dataset_*.json`` there."""
    root = Path(root)
    if json is not None:
        for path in (root / json, Path(json)):
            if path.is_file():
                return path
        raise DataError(
            f"json: expected a file such as dataset_coco.json, got {json}, which is not in {root}; correct it"
        )
    found = visible(root, "dataset_*.json")
    if len(found) != 1:
        got = ", ".join(path.name for path in found) or "none"
        raise DataError(f"root: expected one dataset_*.json in {root}, got {got}; name the file as json")
    return found[0]


def read_entries(path: str | Path) -> list[Entry]:
    """The images that the JSON file lists; DataError names the first that is not as expected."""
    try:
        content = json_module.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON in UTF-8, got {error}; download it again") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise DataError(f'{path}: expected {{"images": [...]}} as in dataset_coco.json, got other JSON; name that file')
    return [_entry(path, number, image) for number, image in enumerate(images)]


def _entry(path: str | Path, number: int, image: Any) -> Entry:
    try:
        captions = [_text(sentence) for sentence in image["sentences"]]
        place = Path(image.get("filepath", ""), image["filename"])
        split = image["split"]
        if not isinstance(split, str):
            raise TypeError(f"split is {type(split).__name__}")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: images[{number}]: expected filename, split and sentences with raw, "
            f"got {json_module.dumps(image):.100} ({type(error).__name__}: {error}); correct or remove the entry"
        ) from error
    if place.is_absolute() or ".." in place.parts:
        raise DataError(f"{path}: images[{number}]: expected a picture below the folder, got {place}; correct it")
    return Entry(number, str(place), split, captions)


def _text(sentence: dict[str, Any]) -> str:
    raw = sentence["raw"] if "raw" in sentence else " ".join(sentence["tokens"])
    if not isinstance(raw, str):
        raise TypeError(f"raw is {type(raw).__name__}")
    return " ".join(raw.split())  # some end in a newline, or have one inside


def _captions(path: Path, entry: Entry, captions_per_image: int | None) -> list[str]:
    count = 1 if captions_per_image is None else captions_per_image
    if len(entry.captions) < count:
        raise DataError(
            f"{path}: images[{entry.number}] ({entry.path}): expected at least {count} sentences, "
            f"got {len(entry.captions)}; pass captions_per_image=None to take as many as there are"
            f"{'' if entry.captions else ', and remove the image'}"
        )
    captions = entry.captions[:captions_per_image]
    for caption in captions:
        check_text(f"{path}: images[{entry.number}] ({entry.path})", caption)
    return captions


def find_pictures(root: str | Path, json: Path, paths: list[str], given: str | Path | None = None) -> Path:
    """The folder below which the first of ``paths`` lies."""
    if given is not None:
        return Path(given)
    folders = [base / name for base in dict.fromkeys((Path(root), json.parent)) for name in PICTURE_FOLDERS]
    for folder in folders:
        if (folder / paths[0]).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders if folder.is_dir())
    raise DataError(f"pictures: expected a folder with {paths[0]}, got none in {tried}; name the folder as pictures")


def missing_pictures(folder: Path, paths: list[str]) -> list[str]:
    """Those of ``paths`` that are no files below ``folder``; each folder is listed once instead of asking for each."""
    there: dict[Path, set[str]] = {}
    for parent in {(folder / path).parent for path in paths}:
        try:
            there[parent] = {entry.name for entry in os.scandir(parent) if entry.is_file()}
        except OSError:
            there[parent] = set()
    return [path for path in paths if (place := folder / path).name not in there[place.parent]]
