"""One mining as it is described: plain arrays, which may be memory-mapped, and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._scalars import as_strings

Indices = NDArray[np.integer[Any]]
Scores = NDArray[np.floating[Any]]
Picture = Callable[[int], "NDArray[np.uint8] | None"]


@dataclass(frozen=True, eq=False)
class RankedLists:
    """The mined list of each of A anchors, hardest first.

    Attributes:
        indices: (A, k) integers, rows of the candidates; -1 where an anchor has fewer than k.
        scores: (A, k) float32, -inf where the index is -1; None is allowed only in an earlier mining.
    """

    indices: Indices
    scores: Scores | None = None

    def __post_init__(self) -> None:
        _check_array("indices", self.indices, np.integer, "(anchors, k)", None, 2)
        if self.indices.shape[1] < 1:
            raise ValueError(f"indices: expected k of at least 1, got shape {self.indices.shape}")
        if self.scores is not None:
            _check_array("scores", self.scores, np.floating, "the shape of indices", self.indices.shape, 2)

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])


@dataclass(frozen=True, eq=False)
class MiningRecord:
    """One mining of N images and M texts; only the lists, their sizes and a title are needed.

    Attributes:
        title: what was mined, for people.
        texts: (N, k), for each image the texts that score highest without belonging to it.
        text_count: M.
        images: (M, k'), the same for each text.
        text_positive: (M,) the score of each text with its own image.
        image_positive: (N,) the score of each image with the best of its own texts; made from `text_positive` and
            `text_image_index` where those are given instead. NaN where an image has no text.
        text_image_index: (M,) the image of each text.
        captions: the M texts.
        image_names: N names, for people.
        picture: the pixels of an image, (C, H, W) uint8, or None where there are none to show; large ones are reduced.
        earlier: (N, any k), texts listed for the same images by an earlier mining.
        earlier_images: (M, any k), the same for the texts.
        seconds: step -> how long it took, in the order the steps ran.
        excluded: sentences, each saying what was left out or filtered, and why.
        facts: name -> value: model, data set, number of scores, exactness, versions, settings.
        date: as it is to be shown; nothing here reads a clock.
    """

    title: str
    texts: RankedLists
    text_count: int
    images: RankedLists | None = None
    text_positive: Scores | None = None
    image_positive: Scores | None = None
    text_image_index: Indices | None = None
    captions: Sequence[str] | None = None
    image_names: Sequence[str] | None = None
    picture: Picture | None = None
    earlier: RankedLists | None = None
    earlier_images: RankedLists | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    excluded: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    def __post_init__(self) -> None:
        images, texts = self.image_count, self.text_count
        for name, lists, anchors, meaning in (
            ("texts", self.texts, images, "one list per image"),
            ("images", self.images, texts, "one list per text"),
            ("earlier", self.earlier, images, "one list per image"),
            ("earlier_images", self.earlier_images, texts, "one list per text"),
        ):
            if lists is None:
                continue
            if len(lists.indices) != anchors:
                raise ValueError(f"{name}: expected {meaning}, {anchors}, got {len(lists.indices)}")
            if lists.scores is None and not name.startswith("earlier"):
                raise ValueError(f"{name}: expected scores beside the indices, got None")
        if self.text_positive is not None:
            _check_array("text_positive", self.text_positive, np.floating, "one score per text", (texts,), 1)
        if self.image_positive is not None:
            _check_array("image_positive", self.image_positive, np.floating, "one score per image", (images,), 1)
        if self.text_image_index is not None:
            _check_array("text_image_index", self.text_image_index, np.integer, "one image per text", (texts,), 1)
            if texts and not 0 <= int(self.text_image_index.min()) <= int(self.text_image_index.max()) < images:
                raise ValueError(f"text_image_index: expected indices in [0, {images})")
        for name, words, count in (("captions", self.captions, texts), ("image_names", self.image_names, images)):
            if words is not None and len(as_strings(name, words)) != count:
                raise ValueError(f"{name}: expected {count}, got {len(words)}")
        as_strings("excluded", self.excluded)

    @property
    def image_count(self) -> int:
        """N"""
        return len(self.texts.indices)

    def name_of(self, image: int) -> str:
        """For people; the number of an image without a name."""
        return (self.image_names[image] if self.image_names is not None else "") or f"image {image}"

    def best_own_scores(self) -> NDArray[np.float32] | None:
        """(N,) each image's score with the best of its own texts, NaN where unknown; None without any positives."""
        if self.image_positive is not None:
            return _unknown_as_nan(self.image_positive)
        if self.text_positive is None or self.text_image_index is None:
            return None
        best = np.full(self.image_count, -np.inf, np.float32)
        known = np.isfinite(self.text_positive)
        np.maximum.at(best, self.text_image_index[known], self.text_positive[known].astype(np.float32))
        return _unknown_as_nan(best)

    def own_scores_of_texts(self) -> NDArray[np.float32] | None:
        """(M,) each text's score with its image, NaN where unknown."""
        return None if self.text_positive is None else _unknown_as_nan(self.text_positive)

    def texts_of(self, image: int) -> NDArray[np.intp]:
        """The rows of an image's own texts, best first where their scores are known."""
        if self.text_image_index is None:
            return np.empty(0, np.intp)
        own = np.flatnonzero(self.text_image_index == image)
        if self.text_positive is None:
            return own
        return own[np.argsort(-np.nan_to_num(self.text_positive[own], nan=-np.inf), kind="stable")]


def _unknown_as_nan(scores: Scores) -> NDArray[np.float32]:
    values = np.asarray(scores, np.float32)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def _check_array(
    name: str, array: NDArray[Any], kind: type, meaning: str, shape: tuple[int, ...] | None, dimensions: int
) -> None:
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, kind):
        got = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name}: expected a NumPy array of {kind.__name__} type, got {got}")
    if array.ndim != dimensions or (shape is not None and array.shape != shape):
        wanted = meaning if shape is None else f"{meaning}, {shape}"
        raise ValueError(f"{name}: expected {wanted}, got shape {array.shape}")
