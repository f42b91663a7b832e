"""The scores of a whole data set, for evaluation and mining: features packed without padding, scores in blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from aoq_ext.encoders.matching import Features, MatchingModel


class PackedFeatures:
    """Features of many items of differing lengths, without their padding.

    25,000 captions of 12 words on average and 80 at most, D = 1,024, take 1.2 GB so, and 8 GB padded.

    Example:
        >>> packed = PackedFeatures([Features(torch.ones(2, 4, 8), torch.tensor([4, 1]))])
        >>> len(packed), packed.rows(slice(1, 2)).values.shape
        (2, torch.Size([1, 1, 8]))
    """

    def __init__(self, batches: Iterable[Features], device: torch.device | str = "cpu") -> None:
        """``batches``: of padded sequences (N, F, D), of any F; taken one at a time."""
        parts, lengths = [], []
        for batch in batches:
            size = batch.values.shape[1]
            length = batch.lengths if batch.lengths is not None else torch.full((len(batch),), size)
            length = length.to(batch.values.device)
            mask = torch.arange(size, device=length.device) < length.unsqueeze(1)
            parts.append(batch.values.detach()[mask].to(device))
            lengths.append(length.cpu())
        if not parts:
            raise ValueError("batches: expected at least one")
        self.values = torch.cat(parts)  # (all fragments, D)
        self.lengths = torch.cat(lengths)  # (N,), on the CPU
        self.firsts = torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])  # (N + 1,)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, index: slice) -> Features:
        """Consecutive items, padded with zeros to the longest of them."""
        first, last, _ = index.indices(len(self))
        lengths = self.lengths[first:last]
        values = self.values[int(self.firsts[first]) : int(self.firsts[last])]
        padded = torch.nn.utils.rnn.pad_sequence(list(values.split(lengths.tolist())), batch_first=True)
        return Features(padded, lengths.to(values.device))


def score_blocks(
    model: MatchingModel,
    images: Features | PackedFeatures,
    texts: Features | PackedFeatures,
    image_block: int = 512,
    text_block: int = 512,
    device: torch.device | str | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Every block of the score matrix, on ``device`` (by default the model's): images, texts, their scores (n, m)."""
    where = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    target = where if device is None else torch.device(device)
    for first in range(0, len(images), image_block):
        rows = slice(first, min(first + image_block, len(images)))
        image = images.rows(rows).to(target)
        for other in range(0, len(texts), text_block):
            columns = slice(other, min(other + text_block, len(texts)))
            with torch.no_grad():
                scores = model.scores(image, texts.rows(columns).to(target))
            yield rows, columns, scores


def score_matrix(
    model: MatchingModel,
    images: Features | PackedFeatures,
    texts: Features | PackedFeatures,
    image_block: int = 512,
    text_block: int = 512,
) -> Tensor:
    """The score of every image and every text, (N, M) float32 on the CPU."""
    matrix = torch.empty(len(images), len(texts))
    for rows, columns, scores in score_blocks(model, images, texts, image_block, text_block):
        matrix[rows, columns] = scores.float().cpu()
    return matrix
