"""The hardest negatives as a miner of pytorch-metric-learning, beside the loss of this package.

`HardestNegativesMiner` serves every loss of that library that takes triplets. With `TripletMarginLoss` the two losses
are the same, on the first rung of this package's ladder: the example trains with one and prints the other beside it.
Wants the packages of `pip install 'aoq_ext[examples]'`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BaseMiner
from pytorch_metric_learning.reducers import SumReducer
from torch import Tensor, nn

import aoq_ext

MARGIN = 0.2


class HardestNegativesMiner(BaseMiner):
    """Each anchor's hardest negative, with every one of its positives; no (B, B) score is ever stored.

    Hardest means the highest cosine, which on normalised embeddings is also the smallest Euclidean distance. An anchor
    without a negative is in no triplet. Row i of the references must carry the label of row i of the embeddings, as
    the two sides of a batch of pairs do; without references the anchors are compared with one another.
    """

    def mine(
        self,
        embeddings: Tensor,  # (B, D)
        labels: Tensor,  # (B,)
        ref_emb: Tensor,  # (B, D)
        ref_labels: Tensor,  # (B,)
    ) -> tuple[Tensor, Tensor, Tensor]:  # anchors in embeddings, positives and negatives in ref_emb, (T,) each
        if not torch.equal(labels, ref_labels):
            raise ValueError("ref_labels must equal labels: embeddings and ref_emb are the two sides of the same pairs")
        unit = F.normalize(embeddings, dim=1), F.normalize(ref_emb, dim=1)
        negative = aoq_ext.hardest_negatives(*unit, group_ids=labels).text_index  # (B,), −1 where there is none
        positive_pairs = (labels[:, None] == ref_labels[None, :]) & (negative >= 0)[:, None]  # (B, B) bool
        if ref_emb is embeddings:  # an anchor is not its own positive; its caption, with the same label, is
            positive_pairs.fill_diagonal_(False)
        anchor, positive = torch.where(positive_pairs)
        return anchor, positive, negative[anchor]


def both_directions(image: Tensor, text: Tensor, labels: Tensor) -> Tensor:  # (B, D), (B, D), (B,) -> ()
    """Images as anchors, then texts, through the miner and the loss of pytorch-metric-learning."""
    miner = HardestNegativesMiner()
    loss_fn = TripletMarginLoss(margin=MARGIN, distance=CosineSimilarity(), reducer=SumReducer())
    total = image.new_zeros(())
    for anchor, reference in ((image, text), (text, image)):
        triplets = miner(anchor, labels, reference, labels)
        total = total + loss_fn(anchor, labels, triplets, ref_emb=reference, ref_labels=labels)
    return total


def make_pairs(count: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:  # (count, width) each
    """Synthetic pairs: one meaning, seen through two unknown linear maps and noise."""
    meaning = torch.randn(count, width // 2, generator=generator)
    maps = torch.randn(2, width // 2, width, generator=generator)
    noise = 0.5 * torch.randn(2, count, width, generator=generator)
    image, text = meaning @ maps + noise
    return image, text


def main(steps: int = 50, batch_size: int = 128, seed: int = 0) -> list[tuple[float, float]]:
    """Train two linear encoders; the two losses of every step, pytorch-metric-learning's and this package's."""
    torch.manual_seed(seed)
    image_rows, text_rows = make_pairs(8 * batch_size, 64, torch.Generator().manual_seed(seed))
    image_encoder, text_encoder = nn.Linear(64, 32), nn.Linear(64, 32)
    optimiser = torch.optim.Adam([*image_encoder.parameters(), *text_encoder.parameters()], lr=1e-2)
    aoq_loss = aoq_ext.AdaptiveQuintupletLoss(margin_online=MARGIN, objective="online_triplet")
    losses = []
    for step in range(steps):
        labels = torch.randperm(len(image_rows))[:batch_size]  # one label a pair: all others are negatives
        image = F.normalize(image_encoder(image_rows[labels]), dim=1)
        text = F.normalize(text_encoder(text_rows[labels]), dim=1)
        loss = both_directions(image, text, labels)
        losses.append((loss.item(), aoq_loss(image, text, group_ids=labels).item()))
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            print("step {:3}: pytorch-metric-learning {:8.4f}, aoq_ext {:8.4f}".format(step, *losses[-1]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return losses


if __name__ == "__main__":
    main()
