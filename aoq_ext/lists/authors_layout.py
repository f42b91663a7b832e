"""Lists as the paper's own training code reads them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

CAPTIONS = 5  # of an image, one after the other: the code divides by it
DRAWS = 300  # texts of a list that the code draws from, if it is not told otherwise


def write_authors_layout(
    folder: str | Path,
    data_name: str,
    texts: NDArray[Any],  # (N, k) texts for each image
    images: NDArray[Any],  # (5 N, k) images for each text
) -> tuple[Path, Path]:
    """Write ``i2t_NAME.npy`` and ``t2i_NAME.npy``; returns their paths.

    What was seen in github.com/sunnychencool/AOQ at commit a8859e6:

    * ``tools/geti2toffcandi.py`` saves ``offlinecandidates/i2t_coco.npy``, int32 (images, 2000), and
      ``tools/gett2ioffcandi.py`` saves ``offlinecandidates/t2i_coco.npy``, int32 (texts, 400): row numbers, from 0,
      hardest first, the anchor's own left out; no scores.
    * Texts 5 i to 5 i + 4 are the captions of image i, in those tools and in ``dataAOQ.py``.
    * ``dataAOQ.py`` (and ``BFAN/dataAOQ.py``) load ``i2t_`` and ``t2i_`` + the part of the data folder's name before
      ``_``: ``coco`` of ``coco_precomp``, ``f30k`` of ``f30k_precomp``. They draw n below ``--offcandisize`` (300) and
      take text n of the image's row and image n // 5 of the text's row, without a check: lists of 300 and 60 suffice,
      longer ones do no harm, and -1 would be taken for the last row.

    Hence no -1 is written; lists that hold any are refused.
    """
    import numpy as np

    name = checked_name(data_name)
    if len(images) != CAPTIONS * len(texts):
        raise ValueError(
            f"images must be lists for {CAPTIONS} texts of each of the {len(texts)} images, one image's after the "
            f"other's, got lists for {len(images)} texts"
        )
    for what, lists, others in (("texts", texts, len(images)), ("images", images, len(texts))):
        if lists.size and int(lists.min()) < 0:
            short = int(np.flatnonzero((lists < 0).any(axis=1))[0])
            raise ValueError(
                f"{what} must be full lists, got {int((lists[short] >= 0).sum())} of {lists.shape[1]} in row {short}: "
                "mine fewer, or with fewer rules"
            )
        if others > np.iinfo(np.int32).max:
            raise ValueError(f"{what} must be numbered in 32 bits, got {others} rows")
    folder = Path(folder)
    paths = folder / f"i2t_{name}.npy", folder / f"t2i_{name}.npy"
    for path, lists in zip(paths, (texts, images)):
        write_atomically(path, partial(np.save, arr=np.asarray(lists, dtype=np.int32)))
    return paths


def checked_name(data_name: str) -> str:
    """The part of it that the code looks for."""
    name = data_name.partition("_")[0]
    if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
        raise ValueError(f"data_name must be a name such as coco or f30k_precomp, got {data_name!r}")
    return name


def draws_from(k_text: int, k_image: int) -> int:
    """The largest ``--offcandisize`` for lists of these lengths."""
    return min(k_text, CAPTIONS * k_image)


def check_caption_order(text_image_index: NDArray[Any]) -> None:
    """Require texts 5 i to 5 i + 4 to be the captions of image i."""
    import numpy as np

    wrong = np.flatnonzero(text_image_index != np.arange(len(text_image_index)) // CAPTIONS)
    if len(wrong):
        first = int(wrong[0])
        raise ValueError(
            f"text_image_index must be {CAPTIONS} texts an image, in order, for the authors' layout, "
            f"got image {int(text_image_index[first])} for text {first}"
        )
