"""``aoq mine``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aoq_ext.commands.parsing import make_parser, positive


def run(argv: Sequence[str]) -> int:
    parser = make_parser("mine", "List the hardest negatives of the training set, as a trained model sees it.")
    parser.add_argument("--run", type=Path, required=True, help="the folder of a training run")
    parser.add_argument(
        "--out", type=Path, required=True, help="the folder for the lists (offline.lists of a configuration)"
    )
    parser.add_argument("--k-text", type=positive, default=300, help="texts listed for each image (%(default)s)")
    parser.add_argument("--k-image", type=positive, default=60, help="images listed for each text (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where the model runs (%(default)s)")
    parsed = parser.parse_args(argv)

    from aoq_ext.training.load import load_run
    from aoq_ext.training.mining import mine_run

    lists = mine_run(load_run(parsed.run, device=parsed.device), parsed.k_text, parsed.k_image)
    lists.save(parsed.out)
    texts, images = lists.texts.shape, lists.images.shape
    print(
        f"{parsed.out}: {texts[1]} texts for each of {texts[0]:,} images, "
        f"{images[1]} images for each of {images[0]:,} texts"
    )
    return 0
