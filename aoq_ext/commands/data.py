"""``aoq data verify``"""

from __future__ import annotations

import argparse
import contextlib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aoq_ext._files import write_json
from aoq_ext.commands.parsing import make_parser, positive

if TYPE_CHECKING:
    from aoq_ext.data.verify import SplitSummary, VerifyReport

_COLUMNS = ("split", "images", "captions", "layout", "an image")
_WIDTH = 100


def run(argv: Sequence[str]) -> int:
    parser = make_parser("data", "Data sets in the formats of the field; docs/data.md describes them.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="verify")
    _add_verify(actions.add_parser("verify", help="say what a data set holds, and what is wrong with it"))
    return _verify(parser.parse_args(argv))


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read a data set and list what it holds and what is wrong with it. The exit status is 0 when it is fine, 1 "
        "when something was found."
    )
    parser.add_argument("path", type=Path, help="a folder such as data/f30k_precomp, or a Karpathy dataset_*.json")
    parser.add_argument("--kind", choices=("precomputed", "karpathy"), help="the format (what the files look like)")
    parser.add_argument(
        "--split", action="append", dest="splits", metavar="SPLIT", help="look at this split; may be given again (all)"
    )
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="a JSON vocabulary to compare (*_vocab.json in the folder)"
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="the folder of the pictures (beside the JSON)")
    parser.add_argument(
        "--captions-per-image", type=positive, default=5, metavar="N", help="captions of an image, at least (5)"
    )
    parser.add_argument("--quick", action="store_true", help="look into a sample of the features or pictures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")


def _verify(parsed: argparse.Namespace) -> int:
    from aoq_ext.data.verify import verify

    options = vars(parsed)
    del options["action"]
    file = options.pop("json")
    with _progress() as progress:
        report = verify(**options, progress=progress)
    _print(report)
    if file:
        write_json(file, report.to_dict())
    return 0 if report.fine else 1


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar, where there is a terminal and rich to draw it."""
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        yield None
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield advance


def _print(report: VerifyReport) -> None:
    print(f"{report.path} ({report.kind})")
    rows = [_COLUMNS, *map(_row, report.splits)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    for note in report.notes:
        print(_wrapped("note: ", note))
    for finding in report.findings:
        print(_wrapped("wrong: ", str(finding)))
    count = len(report.findings)
    print("nothing is wrong" if report.fine else f"{count} thing{'' if count == 1 else 's'} wrong")


def _row(summary: SplitSummary) -> tuple[str, ...]:
    number = [("?" if count is None else f"{count:,}") for count in (summary.images, summary.captions)]
    shape = "×".join(map(str, summary.shape or ()))
    return summary.name, *number, summary.layout, f"{shape} {summary.dtype or ''}".strip()


def _wrapped(mark: str, text: str) -> str:
    return textwrap.fill(
        mark + text, _WIDTH, subsequent_indent=" " * len(mark), break_long_words=False, break_on_hyphens=False
    )
