"""``aoq mine --run``: the training set of a trained model."""

from __future__ import annotations

import argparse
import time


def mine(parsed: argparse.Namespace) -> int:
    from aoq_ext.training.load import load_run
    from aoq_ext.training.mining import mine_run

    loaded = load_run(parsed.run, device=parsed.device or "cpu")
    begun = time.perf_counter()
    lists = mine_run(loaded, parsed.k_text, parsed.k_image, scores=parsed.report is not None)
    seconds = time.perf_counter() - begun
    lists.save(parsed.out)
    texts, images = lists.texts.shape, lists.images.shape
    print(
        f"{parsed.out}: {texts[1]} texts for each of {texts[0]:,} images, "
        f"{images[1]} images for each of {images[0]:,} texts"
    )
    if parsed.authors_layout is not None:
        from aoq_ext.mining.authors_layout import check_caption_order, write_authors_layout

        if lists.text_image is not None:
            check_caption_order(lists.text_image)
        paths = write_authors_layout(parsed.authors_layout, parsed.data_name or "coco", lists.texts, lists.images)
        print(f"{paths[0]}, {paths[1]}: as the authors' training code reads them")
    if parsed.report is not None:
        from aoq_ext.commands.mine_report import report_on_run

        report_on_run(parsed.report, loaded, lists, parsed.earlier, seconds)
        print(f"{parsed.report}: a page about these lists")
    return 0
