"""The mined lists of a training set, and the fingerprints that tell what they belong to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from aoq_ext._arrays import data_of, update_digest
from aoq_ext.data import hash_images
from aoq_ext.lists import MinedLists
from aoq_ext.training.config import ConfigError

if TYPE_CHECKING:
    from aoq_ext.data import ImageTextData


@dataclass(frozen=True, eq=False)
class OfflineLists(MinedLists):
    """The hardest negatives of every training image and every training text."""

    @property
    def data_fingerprint(self) -> str:
        return str(self.problem["data"])

    @property
    def weights_fingerprint(self) -> str:
        return str(self.problem["weights"])

    @classmethod
    def load(cls, folder: str | Path, *, checksums: bool = True) -> OfflineLists:
        """Read what `save` wrote, memory-mapped; refuses files that are missing, cut short or altered."""
        try:
            lists = super().load(folder, checksums=checksums)
            if not {"weights", "data"} <= lists.problem.keys():
                raise ValueError(
                    f"expected lists mined with a run (`aoq mine --run`), got lists between files, {folder}"
                )
        except (ValueError, FileNotFoundError) as error:
            raise ConfigError(f"offline.lists: {error}") from error
        return lists

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


def fingerprint_data(data: ImageTextData) -> str:
    """A hash of everything that gives a list's indices their meaning."""
    digest = hashlib.sha256()
    hash_images(digest, data.images)
    for array in (data.caption_image, data.group_ids):
        digest.update(f"{array.dtype}{array.shape}".encode())
        update_digest(digest, array)
    digest.update("\0".join(data.captions).encode())
    return digest.hexdigest()


def fingerprint_weights(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(data_of(state[name].detach().cpu()))
    return digest.hexdigest()
