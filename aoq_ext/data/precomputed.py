"""Region features extracted beforehand, in the layout of the SCAN and VSE++ releases.

A folder such as ``coco_precomp`` or ``f30k_precomp`` has, for each split (train, dev, test, testall):

``train_ims.npy``
    Features (N, regions, D) or (N, D), float32: one row an image, or, in some releases, the same row once for each of
    its captions.
``train_caps.txt``
    Captions in UTF-8, one a line, five an image, in the order of the images.
``train_ids.txt``
    Optional: one name a line, for each image or for each caption.

The features stay on the disk: rows are read when they are asked for. docs/data.md says where to get such files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aoq_ext._files import visible
from aoq_ext._scalars import as_positive
from aoq_ext.data.captions import caption_lines, read_captions
from aoq_ext.data.errors import DataError
from aoq_ext.data.image_rows import sampled_rows
from aoq_ext.data.image_text import ImageTextData

CAPTIONS_PER_IMAGE = 5
FEATURES, CAPTIONS, IDS = "_ims.npy", "_caps.txt", "_ids.txt"
_COMPARED_IMAGES = 32
_PICKLED_CURE = "save it as a plain float32 array with numpy.save"


def load_precomputed(
    split: str, root: str | Path = ".", captions_per_image: int = CAPTIONS_PER_IMAGE, name: str | None = None
) -> ImageTextData:
    """One split; its images are a memory map of features (N, regions, D) float32.

    Args:
        split: the first part of the files' names: train, dev, test, testall.
        root: the folder.
        captions_per_image: how many neighbouring captions describe an image. As many rows of features as captions mean
            that every row is repeated this many times; one of each is used. 1: each caption has an image of its own.
        name: what the data set is called; by default the folder's name, as in ``coco_precomp/train``.

    DataError for files that are missing or do not fit together. Reads no pickle.
    """
    captions_per_image = as_positive("captions_per_image", captions_per_image)
    folder = Path(root)
    _check_split(folder, split)
    captions = read_captions(folder / f"{split}{CAPTIONS}")
    path = folder / f"{split}{FEATURES}"
    features = open_features(path)
    repeats = rows_per_image(len(features), len(captions), captions_per_image)
    if repeats is None:
        raise DataError(
            f"{path}: expected one row for each {captions_per_image} captions, "
            f"{len(captions) / captions_per_image:g}, or one for each caption, {len(captions)}, got {len(features)}; "
            f"the two files belong to different data, or {split}{CAPTIONS} has lines too many (an empty one at the "
            f"end?) or too few, or captions_per_image is not {captions_per_image}"
        )
    if repeats > 1:
        _check_repeats(path, features, repeats)
        features = features[::repeats]
    images = len(features)
    return ImageTextData(
        images=features,
        captions=captions,
        caption_image=np.repeat(np.arange(images, dtype=np.int64), captions_per_image),
        group_ids=np.arange(images, dtype=np.int64),
        image_names=_names(folder / f"{split}{IDS}", split, images, len(captions), captions_per_image),
        name=f"{name or folder.resolve().name}/{split}",
    )


def splits_in(folder: str | Path) -> list[str]:
    """The splits of which the folder has features or captions, in alphabetical order."""
    return sorted({path.name.removesuffix(end) for end in (FEATURES, CAPTIONS) for path in visible(folder, f"?*{end}")})


def open_features(path: str | Path) -> NDArray[np.float32]:
    """The features in a .npy file, memory-mapped; DataError unless they are float32 with one row an image."""
    features = open_array(path)
    if features.dtype != np.float32 or features.ndim not in (2, 3):
        raise DataError(
            f"{path}: expected float32 of shape (N, regions, D) or (N, D), got {features.dtype} of shape "
            f"{features.shape}; docs/data.md has a script that converts it piece by piece"
        )
    return features


def open_array(path: str | Path) -> NDArray[Any]:
    """A .npy file of any type, memory-mapped; DataError when it cannot be."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: expected a .npy file of features, got no such file; take it from the same release"
        ) from error
    except (ValueError, EOFError) as error:  # cut short, pickled, or no .npy file at all
        raise DataError(
            f"{path}: expected a whole .npy file, got one that numpy cannot map ({error}); copy or download it again, "
            f"or, when it holds Python objects, {_PICKLED_CURE}"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array, got an archive of several; {_PICKLED_CURE}")
    return array


def rows_per_image(rows: int, captions: int, captions_per_image: int) -> int | None:
    """1 where ``rows`` of features are one an image; more where they are one a caption; None where they are neither."""
    if rows * captions_per_image == captions:
        return 1
    return captions_per_image if rows == captions and rows % captions_per_image == 0 else None


def _check_repeats(path: Path, features: NDArray[Any], captions_per_image: int) -> None:
    """Compare the rows of a sample of images: reading them all would take as long as reading the file."""
    for image in sampled_rows(len(features) // captions_per_image, _COMPARED_IMAGES):
        rows = features[image * captions_per_image : (image + 1) * captions_per_image]
        if not np.array_equal(rows, np.broadcast_to(rows[:1], rows.shape), equal_nan=True):
            raise DataError(
                f"{path}: expected every row {captions_per_image} times, as there are as many rows as captions, "
                f"{len(features)}; got different rows from {image * captions_per_image} on; where each caption has an "
                f"image of its own, pass captions_per_image=1"
            )


def _check_split(folder: Path, split: str) -> None:
    found = splits_in(folder)
    if split in found:
        return
    if not found:
        raise DataError(
            f"root: expected a folder with files such as train{FEATURES} and train{CAPTIONS}, got {folder}"
            f"{' without any' if folder.is_dir() else ', which is no folder'}"
        )
    hint = "; the validation split of this layout is called dev" if split == "val" and "dev" in found else ""
    raise ValueError(f"split: expected one of {', '.join(found)} (in {folder}), got {split!r}{hint}")


def _names(path: Path, split: str, images: int, captions: int, captions_per_image: int) -> list[str]:
    """From the file of ids where there is one, else numbers."""
    if not path.is_file():
        return [f"{split} {index}" for index in range(images)]
    names = [line.decode("utf-8", errors="replace") for line in caption_lines(path)]
    if len(names) not in (images, captions):
        raise DataError(
            f"{path}: expected an id for each of {images} images or {captions} captions, got {len(names)}; "
            f"take the file of the same release, or remove it"
        )
    return names if len(names) == images else names[::captions_per_image]
