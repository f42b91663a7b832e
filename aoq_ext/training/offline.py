"""The mined lists on disk, and the fingerprints that tell what they belong to."""

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

from aoq_ext._arrays import hash_file
from aoq_ext._files import expanded, write_atomically, write_bytes_atomically
from aoq_ext.data import hash_images
from aoq_ext.lists.lists_folder import FILES, FORMAT, SAVING, MinedFrom, check_replaceable, read_lists
from aoq_ext.lists.manifest import MANIFEST
from aoq_ext.lists.sampler import OfflineNegativeSampler
from aoq_ext.training.config import ConfigError

if TYPE_CHECKING:
    from aoq_ext.data import ImageTextData
    from aoq_ext.training.batches import Indices

_HASHED_BYTES = 1 << 24


@dataclass(frozen=True)
class OfflineLists:
    """The hardest negatives of every training image and every training text."""

    texts: NDArray[np.int32]  # (N, k_text) texts for each image, hardest first, then -1
    images: NDArray[np.int32]  # (M, k_image) images for each text, hardest first, then -1
    data_fingerprint: str
    weights_fingerprint: str
    text_scores: NDArray[np.float32] | None = None  # (N, k_text), -inf where there is no text
    image_scores: NDArray[np.float32] | None = None  # (M, k_image), -inf where there is no image
    text_image: NDArray[np.int64] | None = None  # (M,) the image of each text
    embeddings_fingerprint: str | None = None  # `fingerprint_embeddings` of images and texts
    run: str | None = None  # the folder of the run whose weights mined them...
    epoch: int | None = None  # ...and how many epochs those had seen
    rules: dict[str, Any] | None = None  # how long the lists are and what may be in them, by name

    def save(self, folder: str | Path) -> Path:
        """Write the arrays and, last, the manifest that vouches for them.

        Lists of a run that are there are replaced; a folder that holds something else is refused.
        """
        check_replaceable(folder, "folder")
        folder = expanded(Path(folder))
        write_bytes_atomically(folder / SAVING, b"")
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "what": "hard negatives, hardest first, -1 where there are no more",
            "run": self.run,
            "epoch": self.epoch,
            "data_fingerprint": self.data_fingerprint,
            "weights_fingerprint": self.weights_fingerprint,
            "embeddings_fingerprint": self.embeddings_fingerprint,
            "rules": self.rules,
        }
        for name, file in FILES.items():
            array = getattr(self, name)
            if array is None:
                continue
            path = write_atomically(folder / file, partial(np.save, arr=array))
            manifest[name] = {"file": file, "shape": list(array.shape), "sha256": hash_file(path)}
        write_bytes_atomically(folder / MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
        for name, file in FILES.items():
            if name not in manifest:  # of lists that were here before
                (folder / file).unlink(missing_ok=True)
        (folder / SAVING).unlink()
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> OfflineLists:
        """Read what `save` wrote, memory-mapped; refuses files that are missing, cut short or altered."""
        try:
            manifest, arrays = read_lists(expanded(Path(folder)))
        except ValueError as error:
            raise ConfigError(f"offline.lists: {error}") from error
        return cls(
            arrays["texts"],
            arrays["images"],
            manifest["data_fingerprint"],
            manifest["weights_fingerprint"],
            arrays.get("text_scores"),
            arrays.get("image_scores"),
            arrays.get("text_image"),
            manifest.get("embeddings_fingerprint"),
            manifest.get("run"),
            manifest.get("epoch"),
            manifest.get("rules"),
        )

    def fingerprint(self) -> str:
        """A hash of everything that draws depend on."""
        digest = hashlib.sha256(self.data_fingerprint.encode())
        for array in (self.texts, self.images):
            digest.update(f"{array.shape}".encode())
            _update(digest, array)
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

    def sampler(
        self,
        text_image: Indices,  # (M,)
        top_texts: int = 300,
        top_images: int = 60,
        seed: int = 0,
    ) -> OfflineNegativeSampler:
        """What draws from these lists."""
        try:
            return OfflineNegativeSampler(
                torch.from_numpy(self.texts),
                torch.from_numpy(self.images),
                torch.from_numpy(text_image),
                top_texts=top_texts,
                top_images=top_images,
                seed=seed,
                fingerprint=self.data_fingerprint,
                mined_from=MinedFrom(self.run, self.epoch, self.weights_fingerprint, self.embeddings_fingerprint),
            )
        except ValueError as error:
            raise ConfigError(f"offline.lists: {error}") from error


def fingerprint_data(data: ImageTextData) -> str:
    """A hash of everything that gives a list's indices their meaning."""
    digest = hashlib.sha256()
    hash_images(digest, data.images)
    for array in (data.caption_image, data.group_ids):
        digest.update(f"{array.dtype}{array.shape}".encode())
        _update(digest, array)
    digest.update("\0".join(data.captions).encode())
    return digest.hexdigest()


def fingerprint_weights(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _update(digest: Any, array: NDArray[Any]) -> None:
    """Hash the elements in their order, a few rows at a time: the array may be a memory map larger than memory."""
    rows = max(1, _HASHED_BYTES * max(1, len(array)) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        digest.update(np.ascontiguousarray(array[first : first + rows]).data)
