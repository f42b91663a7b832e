"""Lists as the paper's own training code reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numpy")

import numpy as np

from aoq_ext.lists.authors_layout import check_caption_order, write_authors_layout


def test_what_the_authors_code_could_not_read_is_refused(tmp_path: Path) -> None:
    full = np.zeros((3, 4), np.int64), np.zeros((15, 2), np.int64)
    short = full[0].copy()
    short[1, 2:] = -1
    with pytest.raises(ValueError, match="texts must be full lists, got 2 of 4 in row 1: mine fewer"):
        write_authors_layout(tmp_path, "coco", short, full[1])
    with pytest.raises(ValueError, match=r"images must be lists for 5 texts of each of the 3 images, .* 14 texts"):
        write_authors_layout(tmp_path, "coco", full[0], full[1][1:])
    with pytest.raises(ValueError, match=r"data_name must be a name .* got '\.\./x_precomp'"):
        write_authors_layout(tmp_path, "../x_precomp", *full)
    with pytest.raises(ValueError, match=r"text_image_index must be 5 texts an image, in order, .* image 1 for text 4"):
        check_caption_order(np.array([0, 0, 0, 0, 1]))
    assert not list(tmp_path.iterdir())
