"""Tiny data sets in the formats of the field: what an image shows is in its captions, so a model can learn them.

An image shows one of 8 colours and one of 5 things. The splits have the same 40 combinations with other noise.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aoq_ext.data import ImageTextData

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")
THINGS = ("cat", "dog", "boat", "house", "tree")
TEMPLATES = (
    "a {colour} {thing}",
    "the {thing} is {colour}",
    "one {colour} {thing} in a picture",
    "there is a {thing} that is {colour}",
    "a photo of a {colour} {thing}",
)
SPLITS = {"train": 40, "dev": 20, "test": 20}
REGIONS, WIDTH = 6, 32


def captions_of(image: int) -> list[str]:
    words = {"colour": COLOURS[image % len(COLOURS)], "thing": THINGS[image // len(COLOURS) % len(THINGS)]}
    return [template.format(**words) for template in TEMPLATES]


def features_of(images: int, seed: int, regions: int = REGIONS, width: int = WIDTH) -> np.ndarray:
    """(images, regions, width) float32: half of the regions show the colour, half the thing."""
    patterns = np.random.default_rng(0).normal(size=(len(COLOURS) + len(THINGS), width))
    number = np.arange(images)
    shown = np.stack([number % len(COLOURS), len(COLOURS) + number // len(COLOURS) % len(THINGS)], axis=1)
    noise = np.random.default_rng((1, seed)).normal(scale=0.3, size=(images, regions, width))
    return (patterns[shown[:, np.arange(regions) % 2]] + noise).astype(np.float32)


def write_precomputed(
    folder: Path, splits: dict[str, int] | None = None, repeated: Sequence[str] = (), ids: bool = False
) -> Path:
    """SCAN's layout; ``repeated``: the splits whose rows occur once for each caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, images) in enumerate((splits or SPLITS).items()):
        features = features_of(images, seed)
        if split in repeated:
            features = features.repeat(len(TEMPLATES), axis=0)
        np.save(folder / f"{split}_ims.npy", features)
        captions = [caption for image in range(images) for caption in captions_of(image)]
        (folder / f"{split}_caps.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
        if ids:
            names = [f"{1000 * seed + image}.jpg" for image in range(images)]
            (folder / f"{split}_ids.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder


def picture_of(image: int, seed: int, width: int = 24, height: int = 18) -> np.ndarray:
    """(height, width, 3) uint8: a pattern of the thing in shades of the colour."""
    fixed = np.random.default_rng(0)
    colours = fixed.integers(40, 255, (len(COLOURS), 3))
    things = fixed.random((len(THINGS), 6, 6)).repeat(height // 6, axis=1).repeat(width // 6, axis=2)
    shades = things[image // len(COLOURS) % len(THINGS)][..., None] * colours[image % len(COLOURS)]
    noise = np.random.default_rng((2, seed, image)).integers(0, 20, (height, width, 3))
    return np.clip(shades + noise, 0, 255).astype(np.uint8)


def write_karpathy(
    folder: Path, splits: dict[str, int] | None = None, coco: bool = True, captions: int = len(TEMPLATES)
) -> Path:
    """``dataset_coco.json`` with pictures in train2014 and val2014, or ``dataset_flickr30k.json`` with one folder."""
    from PIL import Image

    images: list[dict[str, Any]] = []
    for seed, (split, count) in enumerate((splits or {"train": 30, "restval": 10, "val": 20, "test": 20}).items()):
        place = ("train2014" if split == "train" else "val2014") if coco else "flickr30k-images"
        (folder / place).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            number = 1000 * seed + index
            name = f"COCO_{place}_{number:012d}.png" if coco else f"{number}.png"
            Image.fromarray(picture_of(index, seed)).save(folder / place / name)
            texts = (captions_of(index) * 2)[:captions]
            sentids = list(range(len(images) * captions, (len(images) + 1) * captions))
            image = {
                "filename": name,
                "split": split,
                "imgid": len(images),
                "sentids": sentids,
                "sentences": [
                    {"raw": text, "tokens": text.split(), "imgid": len(images), "sentid": sentid}
                    for text, sentid in zip(texts, sentids, strict=True)
                ],
            }
            images.append({**image, "filepath": place, "cocoid": number} if coco else image)
    name = "coco" if coco else "flickr30k"
    path = folder / f"dataset_{name}.json"
    path.write_text(json.dumps({"dataset": name, "images": images}), encoding="utf-8")
    return path


def edit_json(path: Path, image: int, **changes: Any) -> None:
    """Change one entry of a Karpathy file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    content["images"][image].update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_captions(folder: Path, split: str, captions: Sequence[str | bytes]) -> None:
    lines = [caption if isinstance(caption, bytes) else caption.encode() for caption in captions]
    (folder / f"{split}_caps.txt").write_bytes(b"".join(line + b"\n" for line in lines))


def noise_pictures(images: int) -> ImageTextData:
    """Pictures of noise, two captions each, two pictures a group."""
    generator = np.random.default_rng(0)
    return ImageTextData(
        images=generator.integers(0, 256, (images, 3, 8, 8), dtype=np.uint8),
        captions=[f"image {image // 2} caption {number}" for image in range(images) for number in range(2)],
        caption_image=np.repeat(np.arange(images), 2).astype(np.int64),
        group_ids=np.arange(images, dtype=np.int64) // 2,
        image_names=[f"name {image}" for image in range(images)],
        name="made up",
    )
