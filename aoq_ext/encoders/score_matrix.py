"""The scores of a whole data set, for evaluation and mining: features packed without padding, scores in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from aoq_ext.encoders.feature_store import FeatureStore
from aoq_ext.encoders.model import Features, MatchingModel
from aoq_ext.encoders.padding import mask_of


class PackedFeatures:
    """Features of many items of differing lengths, without their padding.

    25,000 captions of 12 words on average and 80 at most, D = 1,024, take 1.2 GB so, and 8 GB padded. More than 1 GiB
    is kept in an unnamed file, memory-mapped.

    Example:
        >>> packed = PackedFeatures([Features(torch.ones(2, 4, 8), torch.tensor([4, 1]))])
        >>> len(packed), packed.rows(slice(1, 2)).values.shape
        (2, torch.Size([1, 1, 8]))
    """

    def __init__(self, batches: Iterable[Features], store: FeatureStore | None = None) -> None:
        """``batches``: of vectors (N, D) or padded sequences (N, F, D), of any F; taken one at a time.

        ``store``: where they are kept; by default a `FeatureStore` as it comes.
        """
        store = store or FeatureStore()
        lengths = []
        self._vectors = False
        for batch in batches:
            self._vectors = batch.values.dim() == 2
            values = batch.values.detach().unsqueeze(1) if self._vectors else batch.values.detach()  # (N, F, D)
            size = values.shape[1]
            if batch.lengths is None:
                length, inside = values.new_full((len(batch),), size, dtype=torch.int64), values.flatten(0, 1)
            else:
                length = batch.lengths.to(values.device)
                inside = values[mask_of(length, size)]
            store.add(store.processes.gather(inside))
            lengths.append(store.processes.gather(length).cpu())
        if not lengths:
            raise ValueError("batches: expected at least one")
        self.values = store.tensor()  # (all fragments, D)
        self.lengths = torch.cat(lengths)  # (N,), on the CPU
        self.firsts = torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])  # (N + 1,)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, index: Tensor | slice) -> Features:
        """These items, in any order, padded with zeros to the longest of them."""
        if isinstance(index, slice):
            index = torch.arange(len(self), device="cpu")[index]
        lengths = self.lengths[index]
        longest = int(lengths.max()) if len(lengths) else 0
        place = torch.arange(longest, device="cpu")
        inside = place < lengths[:, None]  # (n, F)
        rows = torch.where(inside, self.firsts[index][:, None] + place, 0)
        padded = self.values.index_select(0, rows.flatten().to(self.values.device)).unflatten(0, rows.shape)
        if not inside.all():
            padded.masked_fill_(~inside[..., None].to(padded.device), 0.0)
        return Features(padded.flatten(0, 1)) if self._vectors else Features(padded, lengths.to(padded.device))


def score_blocks(
    model: MatchingModel,
    images: Features | PackedFeatures,
    texts: Features | PackedFeatures,
    image_block: int = 512,
    text_block: int = 512,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Every block of the score matrix, on the model's device: images, texts, their scores (n, m)."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for first in range(0, len(images), image_block):
        rows = slice(first, min(first + image_block, len(images)))
        image = images.rows(rows).to(device)
        for other in range(0, len(texts), text_block):
            columns = slice(other, min(other + text_block, len(texts)))
            with torch.no_grad():
                scores = model.scores(image, texts.rows(columns).to(device))
            yield rows, columns, scores


def score_matrix(
    model: MatchingModel,
    images: Features | PackedFeatures,
    texts: Features | PackedFeatures,
    image_block: int = 512,
    text_block: int = 512,
) -> Tensor:
    """The score of every image and every text, (N, M) float32 on the CPU."""
    matrix = torch.empty(len(images), len(texts), dtype=torch.float32, device="cpu")
    for rows, columns, scores in score_blocks(model, images, texts, image_block, text_block):
        matrix[rows, columns] = scores.float().cpu()
    return matrix
