"""Offline negatives: the mined lists on disk, and drawing from them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from aoq_ext._files import write_atomically, write_bytes_atomically
from aoq_ext.training import streams
from aoq_ext.training.batches import Batch, CaptionsOfImages, Indices
from aoq_ext.training.config import ConfigError

if TYPE_CHECKING:
    from aoq_ext.data import ImageTextData

_FORMAT = 1
_MANIFEST = "manifest.json"
_FILES = {"texts": "hard_texts.npy", "images": "hard_images.npy"}


@dataclass(frozen=True)
class OfflineLists:
    """The hardest negatives of every training image and every training text."""

    texts: NDArray[np.int32]  # (N, k_text) texts for each image, hardest first, then -1
    images: NDArray[np.int32]  # (M, k_image) images for each text, hardest first, then -1
    data_fingerprint: str
    weights_fingerprint: str

    def save(self, folder: str | Path) -> Path:
        """Write both lists and, last, the manifest that vouches for them."""
        folder = Path(folder)
        manifest: dict[str, Any] = {
            "format": _FORMAT,
            "what": "hard negatives, hardest first, -1 where there are no more",
            "data_fingerprint": self.data_fingerprint,
            "weights_fingerprint": self.weights_fingerprint,
        }
        for name, array in (("texts", self.texts), ("images", self.images)):
            path = write_atomically(folder / _FILES[name], partial(np.save, arr=array))
            manifest[name] = {
                "file": path.name,
                "shape": list(array.shape),
                "k": array.shape[1],
                "sha256": _sha256(path),
            }
        write_bytes_atomically(folder / _MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> OfflineLists:
        """Read what `save` wrote; refuses files that are missing, cut short or altered."""
        folder = Path(folder)
        manifest = _read_manifest(folder)
        arrays = {}
        for name in _FILES:
            path = folder / manifest[name]["file"]
            if not path.is_file():
                raise ConfigError(f"offline.lists: {path} is missing; mine again")
            if (found := _sha256(path)) != manifest[name]["sha256"]:
                raise ConfigError(
                    f"offline.lists: {path} is not the file its manifest describes "
                    f"(expected sha256 {manifest[name]['sha256'][:12]}..., got {found[:12]}...); mine again"
                )
            arrays[name] = np.load(path, mmap_mode="r")
        return cls(arrays["texts"], arrays["images"], manifest["data_fingerprint"], manifest["weights_fingerprint"])

    def fingerprint(self) -> str:
        """A hash of everything that draws depend on."""
        digest = hashlib.sha256(self.data_fingerprint.encode())
        for array in (self.texts, self.images):
            digest.update(f"{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check_matches(self, data: ImageTextData) -> None:
        """Refuse lists mined over another data set: their indices would point at unrelated rows."""
        expected = (len(data.images), len(data.captions))
        if (got := (len(self.texts), len(self.images))) != expected:
            raise ConfigError(
                f"offline.lists: expected lists for {expected[0]} images and {expected[1]} texts (the data set "
                f"{data.name!r}), got lists for {got[0]} and {got[1]}; mine over this data set"
            )
        if (found := fingerprint_data(data)) != self.data_fingerprint:
            raise ConfigError(
                f"offline.lists: mined over a data set with fingerprint {self.data_fingerprint[:12]}..., but "
                f"{data.name!r} has {found[:12]}...; mine over this data set"
            )


@dataclass(frozen=True)
class OfflineDraw:
    """For each pair (x, y) of a batch, the indices of its offline negatives."""

    hard_text: Indices  # (B,) a hard negative text of x
    hard_image: Indices  # (B,) a hard negative image of y
    hard_text_image: Indices  # (B,) the image that hard_text belongs to
    hard_image_text: Indices  # (B,) a text that belongs to hard_image


class OfflineSampler:
    """Draws from the lists, as a pure function of (seed, step).

    One draw u in [0, 1) chooses for both sides, as in the paper: the hard text at place u of the ``top_texts`` hardest,
    the hard image at place u of the ``top_images`` hardest. A list that is shorter is used whole.
    """

    def __init__(
        self,
        lists: OfflineLists,
        captions: CaptionsOfImages,
        caption_image: Indices,
        top_texts: int = 300,
        top_images: int = 60,
        seed: int = 0,
    ) -> None:
        self.lists = lists
        self.captions = captions
        self.caption_image = caption_image
        self.seed = seed
        self._texts = _available(lists.texts, top_texts, "image", "text")  # (N,)
        self._images = _available(lists.images, top_images, "text", "image")  # (M,)

    def draw(self, batch: Batch) -> OfflineDraw:
        generator = streams.generator(self.seed, streams.OFFLINE, batch.step)
        place = generator.random(len(batch.image))
        text_place = (place * self._texts[batch.image]).astype(np.int64)
        image_place = (place * self._images[batch.caption]).astype(np.int64)
        hard_text = self.lists.texts[batch.image, text_place].astype(np.int64)
        hard_image = self.lists.images[batch.caption, image_place].astype(np.int64)
        return OfflineDraw(
            hard_text=hard_text,
            hard_image=hard_image,
            hard_text_image=self.caption_image[hard_text],
            hard_image_text=self.captions.draw(hard_image, generator),
        )


def fingerprint_data(data: ImageTextData) -> str:
    """A hash of everything that gives a list's indices their meaning."""
    digest = hashlib.sha256()
    for array in (data.images, data.caption_image, data.group_ids):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update("\0".join(data.captions).encode())
    return digest.hexdigest()


def fingerprint_weights(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the lists in ``folder``, with every entry that `OfflineLists.load` reads."""
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(
            f"offline.lists: expected a folder with a {_MANIFEST} (`aoq mine` writes it), got {folder}"
        ) from error
    except ValueError as error:
        raise ConfigError(f"offline.lists: {path} is not valid JSON ({error}); mine again") from error
    if not isinstance(manifest, dict):
        raise ConfigError(f"offline.lists: expected an object in {path}, got a {type(manifest).__name__}; mine again")
    if manifest.get("format") != _FORMAT:
        raise ConfigError(f"offline.lists: expected format {_FORMAT} in {path}, got {manifest.get('format')}")
    lists = {name: manifest.get(name) for name in _FILES}
    entries = {f"{name}_fingerprint": manifest.get(f"{name}_fingerprint") for name in ("data", "weights")}
    for name, described in lists.items():
        for key in ("file", "sha256"):
            entries[f"{name}.{key}"] = described.get(key) if isinstance(described, dict) else None
    for name, value in entries.items():
        if not isinstance(value, str):
            raise ConfigError(f"offline.lists: expected a text as {name} in {path}, got {value!r:.60}; mine again")
    return manifest


def _available(lists: NDArray[np.int32], top: int, anchor: str, candidate: str) -> Indices:
    """(N, k) -> (N,) how many of the first ``top`` entries of each list exist"""
    count: Indices = (lists[:, :top] >= 0).sum(axis=1)
    if empty := int((count == 0).sum()):
        raise ConfigError(
            f"offline.lists: expected at least one negative {candidate} for every {anchor}, got none for {empty} of "
            f"{len(lists)} (the first is {anchor} {int(count.argmin())}): every {candidate} listed shares its group; "
            f"check group_ids"
        )
    return count


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
