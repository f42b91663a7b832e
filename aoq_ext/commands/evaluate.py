"""``aoq eval``"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aoq_ext.commands.parsing import make_parser, positive


def run(argv: Sequence[str]) -> int:
    parser = make_parser("eval", "Retrieval metrics of a trained model, printed and noted in the run's metrics.json.")
    parser.add_argument("--run", type=Path, required=True, help="the folder of a training run")
    parser.add_argument("--split", action="append", help="a split of the run's data set; may be given again (test)")
    parser.add_argument("--folds", type=positive, default=1, help="evaluate in this many equal parts and average (1)")
    parser.add_argument("--which", choices=("best", "last"), default="best", help="the weights (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where the model runs (%(default)s)")
    parsed = parser.parse_args(argv)

    from aoq_ext.training.evaluation import evaluate_run, print_results
    from aoq_ext.training.load import load_run

    run = load_run(parsed.run, parsed.which, parsed.device)
    print_results({split: evaluate_run(run, split, parsed.folds) for split in parsed.split or ["test"]})
    return 0
