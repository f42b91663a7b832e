"""``aoq recipe``"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from aoq_ext.commands.parsing import make_parser


def run(argv: Sequence[str]) -> int:
    parser = make_parser(
        "recipe",
        "Train round 1, mine its negatives, train round 2 and, where there is one, its control, and evaluate all. What "
        "is done is skipped: the same command continues a recipe that was stopped.",
    )
    parser.add_argument(
        "prefix",
        type=Path,
        help="PREFIX of PREFIX-round1.yaml, PREFIX-aoq.yaml and any PREFIX-control.yaml, as in configs/coco/vsrn",
    )
    parser.add_argument("--root", type=Path, help="the folder with the data (as in the files)")
    parser.add_argument("--out", type=Path, help="the folder for everything (runs/DATASET-MODEL)")
    parser.add_argument(
        "--set",
        dest="settings",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an entry of all configurations, such as epochs=10; may be given again",
    )
    parser.add_argument(
        "--evaluate",
        type=_evaluation,
        action="append",
        default=[],
        metavar="SPLIT[:FOLDS]",
        help="may be given again (test; where there is testall, testall:5 and testall)",
    )
    parser.add_argument("--device", help="where mining and evaluation run (as training)")
    parsed = parser.parse_args(argv)

    from aoq_ext.training.recipe import Evaluation, read_recipe, run_recipe

    evaluations = [Evaluation(*each) for each in parsed.evaluate]
    recipe = read_recipe(parsed.prefix, parsed.out, parsed.root, dict(parsed.settings), evaluations)
    run_recipe(recipe, device=parsed.device)
    return 0


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def _evaluation(text: str) -> tuple[str, int]:
    split, colon, folds = text.partition(":")
    if not split or (colon and not (folds.isdecimal() and int(folds) > 0)):
        raise argparse.ArgumentTypeError(f"expected SPLIT or SPLIT:FOLDS, got {text!r}")
    return split, int(folds or 1)
