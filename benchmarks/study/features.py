"""Fixed image features, as the paper's models read them: of a convolutional network that was trained on other images.

The training groups of the icons are divided in two by a coin. A `ConvEncoder` with a text encoder learns one half (and
serves as what ImageNet or Visual Genome is to the paper's features); its convolutions' last grid, 4 × 4 cells of 64
channels, is then computed for the other half, on which the study trains, and for every evaluation split.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from aoq_ext._files import write_atomically
from aoq_ext.data import ICON_SPLITS, ImageTextData, load_icons
from aoq_ext.encoders import ConvEncoder
from aoq_ext.training import Component, DataConfig, ModelConfig, TrainConfig, load_run, train

CHANNELS = (32, 64, 64)
CELLS = 16
_DIM = 256


def load_half(split: str = "train", root: str | Path | None = None, half: int = 0) -> ImageTextData:
    """The icons; of the training images those of one half."""
    data = load_icons(split, root)
    if split != "train":
        return data
    coin = np.random.default_rng(0).integers(0, 2, int(data.group_ids.max()) + 1)
    return data.subset(np.flatnonzero(coin[data.group_ids] == half), name=f"icons/train, half {half}")


def make_features(folder: Path, epochs: int = 8, console: Console | None = None) -> None:
    """Train the network on half 0 and leave its features of everything else in ``folder``; what is there stays."""
    config = TrainConfig(
        run=str(folder / "network"),
        epochs=epochs,
        warmup_epochs=2 * epochs // 3,
        log_every=50,
        checkpoint_every=1_000,
        accelerator="cpu",
        data=DataConfig("study.features.load_half", validation_split=None, workers=0),
        model=ModelConfig(
            Component("aoq_ext.encoders.ConvEncoder", {"dim": _DIM, "channels": list(CHANNELS), "in_channels": 1}),
            Component("aoq_ext.encoders.GRUEncoder", {"dim": _DIM, "hidden": _DIM}),
        ),
    )
    config.optimizer.lr = 2e-3
    if all((folder / f"{split}.npy").is_file() for split in ICON_SPLITS):
        return
    train(config, resume=True, console=console)
    encoder = load_run(config.run).model.matching.image_encoder
    assert isinstance(encoder, ConvEncoder)
    convolutions = encoder.features[:-2]  # without what flattens
    for split in ICON_SPLITS:
        images = torch.from_numpy(load_half(split, half=1).images)
        with torch.inference_mode():
            parts = [convolutions(part.float() / 127.5 - 1).flatten(2).mT for part in images.split(1024)]
        rows = torch.cat(parts).contiguous().numpy()  # (N, cells, channels)
        write_atomically(folder / f"{split}.npy", partial(np.save, arr=rows))


def load_features(
    split: str = "train", root: str | Path | None = None, regions: bool = False, images: int | None = None
) -> ImageTextData:
    """What `make_features` left in ``root``: (N, 16, 64) float32 with ``regions``, else (N, 1024).

    images: so many of the training images, drawn once and for all; None: every one.
    """
    data = load_half(split, half=1)
    rows = np.load(Path(root or os.curdir) / f"{split}.npy")
    rows = rows if regions else rows.reshape(len(rows), -1)
    whole = ImageTextData(
        rows, data.captions, data.caption_image, data.group_ids, data.image_names, f"features of {data.name}"
    )
    if split != "train" or images is None:
        return whole
    return whole.subset(np.sort(np.random.default_rng(0).permutation(len(whole))[:images]))
