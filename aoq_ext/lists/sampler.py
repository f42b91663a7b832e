"""What training draws its offline negatives from: mined lists, in memory or in a folder that ``aoq mine`` wrote."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .._scalars import as_int
from .._sources import read_integers
from .._validation import as_int64, check_integers, shape_of
from .draws import draw, place, state_of
from .manifest import MinedFrom
from .mined_lists import MinedLists

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHECKED_ROWS = 4096  # rows of a list looked at together
_MOST = 2**63


class StaleNegativesWarning(UserWarning):
    """Offline negatives that are hard for other weights than those in training."""


@dataclass(frozen=True)
class OfflineNegatives:
    """For each pair (x, y) of a batch, the indices of its offline negatives, on the device of the pairs."""

    hard_text: Tensor  # (B,) int64, a hard negative text of x
    hard_image: Tensor  # (B,) int64, a hard negative image of y
    hard_text_image: Tensor  # (B,) int64, the image that hard_text belongs to
    hard_image_text: Tensor  # (B,) int64, a text that belongs to hard_image


class OfflineNegativeSampler:
    """Draws the offline negatives of a batch from mined lists.

    One draw u in [0, 1) chooses for both sides, as in the paper: the hard text at place u of the ``top_texts`` hardest,
    the hard image at place u of the ``top_images`` hardest (with 300 and 60: text n and image n // 5). A list that is
    shorter is used whole. The text that goes with the hard image is any of that image's own, all equally likely.

    What is drawn for a pair is a function of (seed, step, image, text) alone: not of the rest of the batch, nor of what
    was drawn before. So

    * to resume anywhere, pass the same ``step`` again (steps counted over the whole run, not within an epoch); nothing
      needs to be saved. Without ``step`` the sampler counts its own draws; save `state_dict` with the model then.
    * ranks that share a batch (``DistributedSampler``) draw together what one process would; give all the same seed.
    * ``DataLoader`` workers may draw, for whole batches or item by item, if the step comes with the indices (from a
      batch sampler that yields both). A sampler of `from_folder` opens its files again in each worker; other lists are
      copied there unless workers are forked.

    Args:
        hard_text: texts for each image, hardest first, -1 where there are no more (`mine_hard_negatives` returns such).
        hard_image: images for each text, likewise.
        text_image_index: the image of each text.
        top_texts: a hard text is drawn from this many of the hardest of each image...
        top_images: ...and a hard image from this many of the hardest of each text.
        seed: in [0, 2⁶³).
        fingerprint: of what was mined, the data set or, by `fingerprint_embeddings`, its embeddings; see `check`.
        mined_from: where the weights came from; see `warn_if_stale`.

    Raises:
        TypeError: an argument is not a tensor or no integer.
        ValueError: shapes disagree, indices are out of range, an anchor has no negatives, or an image no text.

    Example:
        >>> hard_text, hard_image = torch.tensor([[3, 2], [0, -1]]), torch.tensor([[1], [1], [0], [0]])
        >>> sampler = OfflineNegativeSampler(hard_text, hard_image, text_image_index=torch.tensor([0, 0, 1, 1]))
        >>> sampler.draw(torch.tensor([1]), torch.tensor([3]), step=0).hard_text
        tensor([0])
    """

    def __init__(
        self,
        hard_text: Tensor,  # (N, k)
        hard_image: Tensor,  # (M, k')
        text_image_index: Tensor,  # (M,)
        *,
        top_texts: int = 300,
        top_images: int = 60,
        seed: int = 0,
        fingerprint: str | None = None,
        mined_from: MinedFrom | None = None,
    ) -> None:
        hard_text, hard_image, text_image_index = (
            _checked_indices(name, tensor, dim)
            for name, tensor, dim in (
                ("hard_text", hard_text, 2),
                ("hard_image", hard_image, 2),
                ("text_image_index", text_image_index, 1),
            )
        )
        seed = checked_number("seed", seed, 0)
        images, texts = len(hard_text), len(hard_image)
        if len(text_image_index) != texts:
            raise ValueError(
                f"text_image_index must have one entry per row of hard_image, {texts}, got {len(text_image_index)}"
            )
        device = hard_text.device
        if hard_image.device != device:
            raise ValueError(f"hard_image must be on the device of hard_text, {device}, got {hard_image.device}")
        self.hard_text, self.hard_image = hard_text, hard_image
        self.text_image_index = text_image_index.to(device, torch.int64)
        self.seed = seed
        self.fingerprint = fingerprint
        self.mined_from = mined_from or MinedFrom()
        self.step = 0  # of the next draw that is given none
        self._folder: Path | None = None
        self._warned = False
        self._texts_of_image, self._first_text, self._text_count = _group(self.text_image_index, images)
        self.top_texts, self.top_images = top_texts, top_images

    @property
    def top_texts(self) -> int:
        return self._top_texts

    @top_texts.setter
    def top_texts(self, top: int) -> None:
        top = checked_number("top_texts", top, 1)
        texts = len(self.hard_image)
        self._hard_texts = _available("hard_text", self.hard_text, top, texts, "image", "text")  # (N,)
        self._top_texts = top

    @property
    def top_images(self) -> int:
        return self._top_images

    @top_images.setter
    def top_images(self, top: int) -> None:
        top = checked_number("top_images", top, 1)
        images = len(self.hard_text)
        self._hard_images = _available("hard_image", self.hard_image, top, images, "text", "image")  # (M,)
        self._top_images = top

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        text_image_index: Tensor | NDArray[Any] | None = None,  # (M,)
        *,
        top_texts: int = 300,
        top_images: int = 60,
        seed: int = 0,
        expected_fingerprint: str | None = None,
        verify: bool = True,
    ) -> OfflineNegativeSampler:
        """The lists that ``aoq mine`` wrote, memory-mapped: a draw reads what it needs. Needs numpy.

        Args:
            path: the folder, of lists mined with a run or, in both directions, between files of embeddings.
            text_image_index: the image of each text; may be left out where the folder has it (mined with a run).
            expected_fingerprint: of the data set or of the embeddings; see `check`.
            verify: read the files once and refuse them if they are not what was written.

        Raises:
            ValueError: the folder is incomplete or damaged, or holds lists of something else.
            FileNotFoundError: the manifest or a file of lists is missing.
        """
        lists = MinedLists.load(path, checksums=verify)
        sampler = cls.from_lists(lists, text_image_index, top_texts=top_texts, top_images=top_images, seed=seed)
        if expected_fingerprint is not None:
            sampler.check(expected_fingerprint)
        return sampler

    @classmethod
    def from_lists(
        cls,
        lists: MinedLists,
        text_image_index: Tensor | NDArray[Any] | None = None,  # (M,)
        **options: Any,
    ) -> OfflineNegativeSampler:
        """As `from_folder`, of lists that are open already; options: ``top_texts``, ``top_images`` and ``seed``."""
        index = lists.text_image if text_image_index is None else text_image_index
        if index is None:
            raise ValueError(f"text_image_index must be given, since {lists.folder} does not hold it, got None")
        sampler = cls(
            torch.from_numpy(lists.texts),
            torch.from_numpy(lists.images),
            read_integers(index, "text_image_index"),
            fingerprint=lists.problem.get("data", lists.mined_from.embeddings),
            mined_from=lists.mined_from,
            **options,
        )
        sampler._folder = None if lists.folder is None else lists.folder.resolve()
        return sampler

    def draw(
        self,
        image_index: Tensor,  # (B,)
        text_index: Tensor,  # (B,)
        step: int | None = None,
    ) -> OfflineNegatives:
        """The negatives of the pairs (image, text) at ``step``; without one, at the step the sampler counts itself.

        Each text must be one of its image's own.
        """
        image_index = _checked_rows("image_index", image_index, len(self.hard_text))
        text_index = _checked_rows("text_index", text_index, len(self.hard_image))
        if image_index.shape != text_index.shape:
            raise ValueError(
                f"text_index must have the shape of image_index, {shape_of(image_index)}, got {shape_of(text_index)}"
            )
        if step is None:
            if get_worker_info() is not None:
                raise ValueError("step must be given in a DataLoader worker, each of which would count alone, got None")
            step, self.step = self.step, self.step + 1
        step = checked_number("step", step, 0)
        image, text = (index.to(self.hard_text.device, torch.int64) for index in (image_index, text_index))
        self._check_pairs(image, text)
        drawn = self.choose(image, text, state_of(self.seed, step, image, text))
        return OfflineNegatives(*(index.to(image_index.device) for index in drawn))

    def choose(self, image: Tensor, text: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """image, text, state: (B,), of pairs as `draw` checked them -> what the draws 1 and 2 from ``state`` give"""
        both, partner = draw(state, 1), draw(state, 2)
        hard_text = self.hard_text[image, place(both, self._hard_texts[image])].long()
        hard_image = self.hard_image[text, place(both, self._hard_images[text])].long()
        return hard_text, hard_image, self.text_image_index[hard_text], self.text_of(hard_image, partner)

    def text_of(self, image: Tensor, drawn: Tensor, later: int = 0) -> Tensor:
        """image, drawn: (B,) -> a text of each image, that which was drawn or the one so many later, in a circle"""
        count = self._text_count[image]
        return self._texts_of_image[self._first_text[image] + (place(drawn, count) + later) % count]

    def _check_pairs(self, image: Tensor, text: Tensor) -> None:
        own = self.text_image_index[text]
        wrong = own != image
        if wrong.any():
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"text_index must be texts of the images in image_index, got text {int(text[at])}, of image "
                f"{int(own[at])}, with image {int(image[at])} at place {at}"
            )

    def check(self, expected_fingerprint: str) -> None:
        """Refuse lists of something else: their indices would point at unrelated rows."""
        known = [value for value in (self.fingerprint, self.mined_from.embeddings) if value is not None]
        if expected_fingerprint not in known:
            raise ValueError(
                f"expected_fingerprint: expected lists mined from what has the fingerprint {expected_fingerprint!r}, "
                f"got lists of {' and '.join(map(repr, known)) or 'something without a fingerprint'}; mine again"
            )

    def warn_if_stale(self, epoch: int, max_age: int, run: str | None = None) -> bool:
        """Warn, once, if the lists are not of the current weights or of recent ones; returns whether they are stale.

        Args:
            epoch: that the model in training is in.
            max_age: epochs that lists may lag behind it.
            run: the name of the run in training; lists of another are stale at once. None: any run's will do.
        """
        origin = self.mined_from
        if run is not None and origin.run != run:
            reason = f"not from those of {run}"
        elif origin.epoch is None:
            reason = f"expected weights at most {max_age} epochs old"
        elif epoch - origin.epoch > max_age:
            reason = f"{epoch - origin.epoch} epochs ago, expected at most {max_age}"
        else:
            return False
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"the offline negatives were mined from {origin}, {reason}: they may no longer be hard; mine again "
                f"with the current weights (`aoq train` does with offline.remine_every)",
                StaleNegativesWarning,
                stacklevel=2,
            )
        return True

    def state_dict(self) -> dict[str, Any]:
        """The step that the next draw without one takes, and what it depends on. Not needed where steps are passed."""
        return {"step": self.step, "seed": self.seed, "fingerprint": self.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, with the same seed and lists."""
        for name in ("seed", "fingerprint"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"state: expected the {name} of this sampler, {getattr(self, name)!r}, got {state[name]!r}"
                )
        self.step = checked_number("state: step", state["step"], 0)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._folder is not None:  # another process opens the files; pickled, a memory map would be copied whole
            del state["hard_text"], state["hard_image"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            lists = MinedLists.load(self._folder, checksums=False)
            self.hard_text, self.hard_image = torch.from_numpy(lists.texts), torch.from_numpy(lists.images)

    def __repr__(self) -> str:
        (images, k_text), (texts, k_image) = self.hard_text.shape, self.hard_image.shape
        return (
            f"OfflineNegativeSampler({k_text} texts for {images} images, {k_image} images for {texts} texts, "
            f"seed={self.seed}, mined from {self.mined_from})"
        )


def _group(text_image: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """(M,) -> texts grouped by image (M,), where each image's begin (N,), how many it has (N,)"""
    if len(text_image) and not 0 <= int(text_image.min()) <= int(text_image.max()) < images:
        raise ValueError(
            f"text_image_index must be rows of hard_text, from 0 to {images - 1}, "
            f"got {int(text_image.min())} to {int(text_image.max())}"
        )
    count = torch.bincount(text_image, minlength=images)
    if images and int(count.min()) == 0:
        raise ValueError(f"text_image_index must give every image a text, got none for image {int(count.argmin())}")
    return torch.argsort(text_image, stable=True), count.cumsum(0) - count, count


def _available(name: str, lists: Tensor, top: int, candidates: int, anchor: str, candidate: str) -> Tensor:
    """(n, k) -> (n,) how many of the first ``top`` entries of each list exist"""
    counts = []
    for first in range(0, len(lists), _CHECKED_ROWS):
        block = lists[first : first + _CHECKED_ROWS, :top]
        exists = block >= 0
        wrong = (block < -1) | (block >= candidates)
        wrong[:, 1:] |= exists[:, 1:] & ~exists[:, :-1]
        if wrong.any():
            row, place = (int(at) for at in wrong.nonzero()[0])
            raise ValueError(
                f"{name} must hold {candidate}s from 0 to {candidates - 1}, then -1 to the end of a list, "
                f"got {block[row].tolist()[place]} at place {place} of the list of {anchor} {first + row}"
            )
        counts.append(exists.sum(dim=1))
    count = torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64, device=lists.device)
    if empty := int((count == 0).sum()):
        raise ValueError(
            f"{name}: expected at least one negative {candidate} for every {anchor}, got none for {empty} of "
            f"{len(lists)} (the first is {anchor} {int(count.argmin())}): its group, its captions or the rules it was "
            f"mined with left none; mine with milder rules"
        )
    return count


def _checked_indices(name: str, tensor: Tensor, dim: int) -> Tensor:
    """Integers of a dtype that has a -1."""
    check_integers(name, tensor)
    if tensor.dim() != dim:
        raise ValueError(f"{name} must have {dim} dimension{'s' * (dim > 1)}, got shape {shape_of(tensor)}")
    return tensor if tensor.dtype.is_signed else as_int64(name, tensor)


def _checked_rows(name: str, index: Tensor, rows: int) -> Tensor:
    index = _checked_indices(name, index, 1)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows:
        raise ValueError(f"{name} must be from 0 to {rows - 1}, got {int(index.min())} to {int(index.max())}")
    return index


def checked_number(name: str, value: int, least: int) -> int:
    value = as_int(name, value)
    if not least <= value < _MOST:
        raise ValueError(f"{name} must be from {least} to 2**63 - 1, got {value}")
    return value
