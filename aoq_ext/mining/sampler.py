"""What training draws its offline negatives from: mined lists, in memory or in a folder that ``aoq mine`` wrote."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .._validation import INTEGER_DTYPES, check_tensor, dtype_of, shape_of
from .embeddings import TensorSource
from .manifest import MANIFEST, hash_file
from .manifest import fingerprint as fingerprint_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 2
FILES = {  # the arrays of a folder, by their name in its manifest; the last three may be missing
    "texts": "hard_texts.npy",
    "images": "hard_images.npy",
    "text_scores": "text_scores.npy",
    "image_scores": "image_scores.npy",
    "text_image": "text_image.npy",
}
_NEEDED = ("texts", "images")

_CHECKED_ROWS = 4096  # rows of a list looked at together
_MOST = 2**63

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64, and so on
_FIRST_FACTOR = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_SECOND_FACTOR = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


class StaleNegativesWarning(UserWarning):
    """Offline negatives that are hard for other weights than those in training."""


@dataclass(frozen=True)
class OfflineNegatives:
    """For each pair (x, y) of a batch, the indices of its offline negatives, on the device of the pairs."""

    hard_text: Tensor  # (B,) int64, a hard negative text of x
    hard_image: Tensor  # (B,) int64, a hard negative image of y
    hard_text_image: Tensor  # (B,) int64, the image that hard_text belongs to
    hard_image_text: Tensor  # (B,) int64, a text that belongs to hard_image


@dataclass(frozen=True)
class MinedFrom:
    """Whose weights the lists are hard for; None where that is not known."""

    run: str | None = None
    epoch: int | None = None  # epochs (or steps, if all ages are in steps) that the weights had seen
    weights: str | None = None  # their fingerprint
    embeddings: str | None = None  # the fingerprint of the embeddings that were mined

    def __str__(self) -> str:
        weights = "weights of unknown age" if self.epoch is None else f"weights of epoch {self.epoch}"
        return f"{weights} of {'an unknown run' if self.run is None else self.run}"


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
        for name, tensor, dim in (
            ("hard_text", hard_text, 2),
            ("hard_image", hard_image, 2),
            ("text_image_index", text_image_index, 1),
        ):
            _check_indices(name, tensor, dim)
        _check_number("top_texts", top_texts, 1)
        _check_number("top_images", top_images, 1)
        _check_number("seed", seed, 0)
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
        self._hard_texts = _available("hard_text", hard_text, top_texts, texts, "image", "text")  # (N,)
        self._hard_images = _available("hard_image", hard_image, top_images, images, "text", "image")  # (M,)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        text_image_index: Tensor | None = None,  # (M,)
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
                Between files, the side with so many rows is the texts, the candidates where both sides have.
            expected_fingerprint: of the data set or of the embeddings; see `check`.
            verify: read the files once and refuse them if they are not what was written.

        Raises:
            ValueError: the folder is incomplete or damaged, or holds lists of something else.
            FileNotFoundError: lists that were mined between files are missing.
        """
        folder = Path(path).resolve()
        found = _open(folder, None if text_image_index is None else len(text_image_index), verify)
        if text_image_index is None:
            if found.text_image is None:
                raise ValueError(f"text_image_index must be given, since {folder} does not hold it, got None")
            text_image_index = found.text_image
        sampler = cls(
            found.texts,
            found.images,
            text_image_index,
            top_texts=top_texts,
            top_images=top_images,
            seed=seed,
            fingerprint=found.fingerprint,
            mined_from=found.mined_from,
        )
        sampler._folder = folder
        if expected_fingerprint is not None:
            sampler.check(expected_fingerprint)
        return sampler

    def draw(
        self,
        image_index: Tensor,  # (B,)
        text_index: Tensor,  # (B,)
        step: int | None = None,
    ) -> OfflineNegatives:
        """The negatives of the pairs (image, text) at ``step``; without one, at the step the sampler counts itself."""
        _check_rows("image_index", image_index, len(self.hard_text))
        _check_rows("text_index", text_index, len(self.hard_image))
        if image_index.shape != text_index.shape:
            raise ValueError(
                f"text_index must have the shape of image_index, {shape_of(image_index)}, got {shape_of(text_index)}"
            )
        if step is None:
            if get_worker_info() is not None:
                raise ValueError("step must be given in a DataLoader worker, each of which would count alone, got None")
            step, self.step = self.step, self.step + 1
        _check_number("step", step, 0)
        image, text = (index.to(self.hard_text.device, torch.int64) for index in (image_index, text_index))
        state = _mix(torch.full_like(image, self.seed))
        for part in (step, image, text):
            state = _mix(state ^ part)
        place, partner = _draw(state, 1), _draw(state, 2)
        hard_text = self.hard_text[image, _place(place, self._hard_texts[image])].long()
        hard_image = self.hard_image[text, _place(place, self._hard_images[text])].long()
        own = self._first_text[hard_image] + _place(partner, self._text_count[hard_image])
        drawn = (hard_text, hard_image, self.text_image_index[hard_text], self._texts_of_image[own])
        return OfflineNegatives(*(index.to(image_index.device) for index in drawn))

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
        _check_number("state: step", state["step"], 0)
        self.step = state["step"]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._folder is not None:  # another process opens the files; pickled, a memory map would be copied whole
            del state["hard_text"], state["hard_image"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._folder is not None:
            found = _open(self._folder, len(self.text_image_index), verify=False)
            self.hard_text, self.hard_image = found.texts, found.images

    def __repr__(self) -> str:
        (images, k_text), (texts, k_image) = self.hard_text.shape, self.hard_image.shape
        return (
            f"OfflineNegativeSampler({k_text} texts for {images} images, {k_image} images for {texts} texts, "
            f"seed={self.seed}, mined from {self.mined_from})"
        )


@dataclass(frozen=True)
class _Folder:
    """Lists in a folder, memory-mapped."""

    texts: Tensor  # (N, k)
    images: Tensor  # (M, k')
    text_image: Tensor | None  # (M,)
    fingerprint: str
    mined_from: MinedFrom


def _open(folder: Path, count: int | None, verify: bool) -> _Folder:
    """Lists of either kind; ``count``: texts there must be."""
    if "problem" in _read_json(folder):
        return _open_between_files(folder, count, verify)
    manifest, arrays = read_lists(folder, verify)
    texts, images, text_image = (
        torch.from_numpy(arrays[name]) if name in arrays else None for name in ("texts", "images", "text_image")
    )
    assert texts is not None and images is not None
    return _Folder(texts, images, text_image, manifest["data_fingerprint"], _origin_of(manifest))


def _open_between_files(folder: Path, count: int | None, verify: bool) -> _Folder:
    import numpy as np

    from .files import MinedFiles

    mined = MinedFiles.load(folder, checksums=verify)
    if mined.reverse_indices is None:
        raise ValueError(f"path must hold lists in both directions (`aoq mine --both`), got {folder} with one")
    # Copy on write: torch warns of arrays it may not write to. Nothing here writes.
    names = "indices", "reverse_indices"
    lists = [torch.from_numpy(np.load(mined.folder / f"{name}.npy", mmap_mode="c")) for name in names]
    sides = ["anchors", "candidates"]
    if count == len(mined.indices) != len(mined.reverse_indices):
        lists.reverse()
        sides.reverse()
    described = (mined.problem[side] for side in sides)
    known = _combine(*((side["dtype"], side["shape"], side["sha256"]) for side in described))
    return _Folder(lists[0], lists[1], None, known, MinedFrom(embeddings=known))


def _origin_of(manifest: dict[str, Any]) -> MinedFrom:
    """What the manifest of lists that were mined with a run says of it."""
    return MinedFrom(
        manifest.get("run"),
        manifest.get("epoch"),
        manifest["weights_fingerprint"],
        manifest.get("embeddings_fingerprint"),
    )


def fingerprint_embeddings(
    images: Tensor,  # (N, D)
    texts: Tensor,  # (M, D)
) -> str:
    """A hash of embeddings: equal for equal dtypes, shapes and bits, on whatever device and with whatever strides."""
    return _combine(
        *(
            (str(rows.dtype), list(rows.shape), fingerprint_rows(TensorSource(rows), None, {}))
            for rows in (images, texts)
        )
    )


def _combine(*sides: tuple[str, list[int], str]) -> str:
    """dtype, shape and sha256 of images and of texts"""
    parts = [[dtype.removeprefix("torch."), shape, digest] for dtype, shape, digest in sides]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_lists(folder: Path, verify: bool = True) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The manifest of a folder of lists, and its arrays, memory-mapped; refuses what is missing or damaged."""
    import numpy as np

    manifest = _read_manifest(folder)
    arrays: dict[str, NDArray[Any]] = {}
    for name in FILES:
        if name not in manifest:
            continue
        described = manifest[name]
        path = folder / described["file"]
        if not path.is_file():
            raise ValueError(f"{path} is missing; mine again")
        if verify and (found := hash_file(path)) != described["sha256"]:
            raise ValueError(
                f"{path} is not the file its manifest describes "
                f"(expected sha256 {described['sha256'][:12]}..., got {found[:12]}...); mine again"
            )
        try:
            # Copy on write: torch warns of arrays it may not write to. Nothing here writes.
            arrays[name] = np.load(path, mmap_mode="c")
        except (ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an array ({error}); mine again") from error
        _check_array(path, arrays[name], described, name, np)
    return manifest, arrays


def _check_array(path: Path, array: NDArray[Any], described: dict[str, Any], name: str, np: Any) -> None:
    kind = np.floating if name.endswith("scores") else np.signedinteger
    if not np.issubdtype(array.dtype, kind) or list(array.shape) != described["shape"]:
        raise ValueError(
            f"{path}: expected {kind.__name__} numbers of shape {described['shape']} as in its manifest, "
            f"got {array.dtype} of shape {list(array.shape)}; mine again"
        )


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"expected a folder with a {MANIFEST} (`aoq mine` writes it), got {folder}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); mine again") from error
    if not isinstance(manifest, dict):
        raise ValueError(f"expected an object in {path}, got a {type(manifest).__name__}; mine again")
    return manifest


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the lists in ``folder``, with every entry that is read later."""
    path = folder / MANIFEST
    manifest = _read_json(folder)
    if "problem" in manifest:
        raise ValueError(
            f"expected lists mined with a run (`aoq mine --run`), got lists mined between files in {folder}"
        )
    if manifest.get("format") not in range(1, FORMAT + 1):
        raise ValueError(f"expected format 1 to {FORMAT} in {path}, got {manifest.get('format')}")
    for name in ("data_fingerprint", "weights_fingerprint"):
        _require(path, name, manifest.get(name), str)
    for name, kind in (("run", str), ("epoch", int), ("embeddings_fingerprint", str)):
        if manifest.get(name) is not None:
            _require(path, name, manifest[name], kind)
    for name in FILES:
        if name in manifest or name in _NEEDED:
            described = _require(path, name, manifest.get(name), dict)
            for key, expected in (("file", str), ("sha256", str), ("shape", list)):
                _require(path, f"{name}.{key}", described.get(key), expected)
    return manifest


def _require(path: Path, name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        words = {str: "a text", int: "a number", dict: "an object", list: "a list"}
        raise ValueError(f"expected {words[kind]} as {name} in {path}, got {value!r:.60}; mine again")
    return value


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
            f"{len(lists)} (the first is {anchor} {int(count.argmin())}): every {candidate} listed shares its group; "
            f"check the groups it was mined with"
        )
    return count


def _mix(state: Tensor) -> Tensor:
    """int64 -> int64: a step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), on the bits of two's complement."""
    state = state + _GOLDEN
    state = (state ^ _shift(state, 30)) * _FIRST_FACTOR
    state = (state ^ _shift(state, 27)) * _SECOND_FACTOR
    return state ^ _shift(state, 31)


def _shift(state: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in: torch's own shift repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _draw(state: Tensor, number: int) -> Tensor:
    """Uniform in [0, 2³²): independent for every ``number``."""
    return _shift(_mix(state ^ number), 32)


def _place(draw: Tensor, count: Tensor) -> Tensor:
    """Place u of a list of ``count`` < 2³¹, u = draw / 2³²; in integers, so that it never rounds up to ``count``."""
    return (draw * count) >> 32


def _check_indices(name: str, tensor: Tensor, dim: int) -> None:
    check_tensor(name, tensor)
    if tensor.dtype not in INTEGER_DTYPES:
        raise TypeError(f"{name} must be an integer tensor, got {dtype_of(tensor)}")
    if tensor.dim() != dim:
        raise ValueError(f"{name} must have {dim} dimension{'s' * (dim > 1)}, got shape {shape_of(tensor)}")


def _check_rows(name: str, index: Tensor, rows: int) -> None:
    _check_indices(name, index, 1)
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < rows:
        raise ValueError(f"{name} must be from 0 to {rows - 1}, got {int(index.min())} to {int(index.max())}")


def _check_number(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not least <= value < _MOST:
        raise ValueError(f"{name} must be from {least} to 2**63 - 1, got {value}")
