"""The whole loss on two encoders of `transformers`, a ViT and a BERT, with negatives mined over all pairs.

The encoders here are small and random, so that the example runs in seconds and without a network. For real weights,
give `Tower` these instead of the ones `make_towers` builds, with the image processor and tokenizer of the same names:

    ViTModel.from_pretrained("google/vit-base-patch16-224-in21k")
    BertModel.from_pretrained("google-bert/bert-base-uncased")

Any other module whose output has a `pooler_output` fits. Wants the packages of `pip install 'aoq_ext[examples]'`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

import aoq_ext
from aoq_ext.data import Vocabulary, load_icons

DIM = 64  # D
LIST_LENGTH = 10  # k: offline negatives are drawn from this many hardest


class Tower(nn.Module):
    """An encoder and a linear map of its pooled output to L2-normalised embeddings (B, D)."""

    def __init__(self, encoder: nn.Module, dim: int = DIM) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = nn.Linear(encoder.config.hidden_size, dim)

    def forward(self, **inputs: Tensor) -> Tensor:
        return F.normalize(self.project(self.encoder(**inputs).pooler_output), dim=1)


@dataclass(frozen=True)
class Pairs:
    """N pictures with one caption each, as the encoders read them: here bundled icons."""

    pixel_values: Tensor  # (N, 3, 32, 32)
    input_ids: Tensor  # (N, L)
    attention_mask: Tensor  # (N, L)
    vocabulary_size: int

    @staticmethod
    def load(count: int) -> Pairs:
        data = load_icons("test")  # one picture of every concept: no two pairs say the same
        captions = [data.captions_of(row)[0] for row in range(count)]
        vocabulary = Vocabulary.build(captions)
        input_ids, _ = vocabulary.encode(captions)
        pixel_values = torch.from_numpy(data.images[:count]).float() / 127.5 - 1  # (N, 1, 32, 32)
        pixel_values = pixel_values.expand(-1, 3, -1, -1)  # grey as three equal colours
        return Pairs(pixel_values, input_ids, (input_ids != 0).long(), len(vocabulary))

    def images(self, rows: Tensor) -> dict[str, Tensor]:
        return {"pixel_values": self.pixel_values[rows]}

    def texts(self, rows: Tensor) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[rows], "attention_mask": self.attention_mask[rows]}


def make_towers(vocabulary_size: int) -> tuple[Tower, Tower]:
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    # The usual 0.02 is for a width of 768; so narrow an encoder would say nearly the same of every input.
    initial = {"initializer_range": 64**-0.5, "hidden_dropout_prob": 0.0}
    vision = ViTModel(ViTConfig(image_size=32, patch_size=8, **size, **initial))
    language = BertModel(BertConfig(vocab_size=vocabulary_size, **size, **initial))
    return Tower(vision), Tower(language)


@torch.no_grad()
def mine(image_tower: Tower, text_tower: Tower, pairs: Pairs) -> tuple[Tensor, Tensor]:  # (N, k), (N, k)
    """The hardest wrong texts of every image and the hardest wrong images of every text, over all N pairs."""
    everything = torch.arange(len(pairs.input_ids))  # ids, too: pair i belongs to itself alone
    image = image_tower.eval()(**pairs.images(everything))
    text = text_tower.eval()(**pairs.texts(everything))
    hard_texts = aoq_ext.mine_hard_negatives(image, text, LIST_LENGTH, everything, everything).indices
    hard_images = aoq_ext.mine_hard_negatives(text, image, LIST_LENGTH, everything, everything).indices
    return hard_texts, hard_images


def batch_loss(
    loss_fn: nn.Module,
    image_tower: Tower,
    text_tower: Tower,
    pairs: Pairs,
    rows: Tensor,  # (B,)
    hard_text: Tensor,  # (B,) a hard negative text of each image
    hard_image: Tensor,  # (B,) a hard negative image of each text
) -> Tensor:  # ()
    """Encode the pairs, their offline negatives and the true partners of these, each tower in one call."""
    # With one caption a picture, the image a text belongs to and the text of an image have the same row.
    image, negative_image, partner_image = image_tower(**pairs.images(torch.cat([rows, hard_image, hard_text]))).chunk(
        3
    )
    text, negative_text, partner_text = text_tower(**pairs.texts(torch.cat([rows, hard_text, hard_image]))).chunk(3)
    return loss_fn(
        image,
        text,
        hard_image=negative_image,
        hard_text=negative_text,
        hard_text_image=partner_image,
        hard_image_text=partner_text,
    )


def main(steps: int = 60, count: int = 64, batch_size: int = 16, seed: int = 0) -> list[float]:
    """Mine once, train for a few seconds, and return the loss of every step."""
    torch.manual_seed(seed)
    pairs = Pairs.load(count)
    image_tower, text_tower = make_towers(pairs.vocabulary_size)
    hard_texts, hard_images = mine(image_tower, text_tower, pairs)
    # All negatives: from random weights, the hardest alone often collapse (docs/negatives.md).
    loss_fn = aoq_ext.AdaptiveQuintupletLoss(online="all", reduction="mean")
    optimiser = torch.optim.AdamW([*image_tower.parameters(), *text_tower.parameters()], lr=5e-4)
    for tower in (image_tower, text_tower):
        tower.train()
    losses = []
    for step in range(steps):
        rows = torch.randperm(count)[:batch_size]
        place = torch.randint(LIST_LENGTH, (batch_size,))
        loss = batch_loss(
            loss_fn, image_tower, text_tower, pairs, rows, hard_texts[rows, place], hard_images[rows, place]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            print(f"step {step:3}: loss {losses[-1]:7.4f}")
    return losses


if __name__ == "__main__":
    main()
