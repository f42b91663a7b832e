"""``aoq mine --run``: the training set of a trained model."""

from __future__ import annotations

import argparse


def mine(parsed: argparse.Namespace) -> int:
    from aoq_ext.training.load import load_run
    from aoq_ext.training.mining import mine_run

    lists = mine_run(load_run(parsed.run, device=parsed.device or "cpu"), parsed.k_text, parsed.k_image)
    lists.save(parsed.out)
    texts, images = lists.texts.shape, lists.images.shape
    print(
        f"{parsed.out}: {texts[1]} texts for each of {texts[0]:,} images, "
        f"{images[1]} images for each of {images[0]:,} texts"
    )
    return 0
