"""``aoq mine``: two forms, ``--run`` for a training set and ``--anchors`` for files, each with a parser of its own."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from aoq_ext.commands.parsing import (
    check_folder,
    check_writable,
    device,
    folder,
    make_parser,
    naming_options,
    positive,
)

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_AGAIN = "Mining that was stopped is continued by the same command."


def run(argv: Sequence[str]) -> int:
    forms = {
        "--run": (_run_parser, _check_run, "aoq_ext.commands.mine_run"),
        "--anchors": (_files_parser, _check_files, "aoq_ext.commands.mine_files"),
    }
    given = [form for form in forms if any(word.partition("=")[0] == form for word in argv)]
    if not given and {"-h", "--help"} & set(argv):
        print("\n".join(make().format_help() for make, _, _ in forms.values()), end="")
        return 0
    if len(given) != 1:
        make_parser("mine", _AGAIN).error(
            "expected --run, --out for a training set, or --anchors, --candidates, --k, --out between files"
        )
    make, check, module = forms[given[0]]
    parser = make()
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        option = unknown[0].partition("=")[0]
        known = any(option in other()._option_string_actions for other, _, _ in forms.values())
        parser.error(
            f"{option} does not go with {given[0]}" if known else f"unrecognized arguments: {' '.join(unknown)}"
        )
    check(parser, parsed)
    _check_shared(parser, parsed)
    with naming_options(parser):
        if parsed.threads is not None:
            import torch

            torch.set_num_threads(parsed.threads)
        return int(import_module(module).mine(parsed))


def _run_parser() -> argparse.ArgumentParser:
    """Names are those of the fields of `aoq_ext.training.mining.MiningOptions`, where it has them."""
    parser = make_parser("mine", f"List the hardest negatives of a training set, as a trained model sees it. {_AGAIN}")
    parser.add_argument("--run", type=Path, required=True, help="the folder of a training run")
    parser.add_argument("--root", type=folder, help="where its data is now (as trained)")
    parser.add_argument(
        "--k-text", dest="k", metavar="K", type=positive, default=300, help="texts listed for each image (300)"
    )
    parser.add_argument(
        "--k-image", dest="k_reverse", metavar="K", type=positive, default=60, help="images listed for each text (60)"
    )
    parser.add_argument(
        "--repeated-captions",
        action="store_true",
        help="allow as negatives of an image the texts that repeat a caption of it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace lists of other weights, lengths or rules")
    _add_shared(parser)
    return parser


def _files_parser() -> argparse.ArgumentParser:
    """Names are those of the arguments of `aoq_ext.lists.mine_to_files`, where it has them."""
    parser = make_parser("mine", f"List the hardest negatives between two files of embeddings. {_AGAIN}")
    embeddings = "embeddings (N, D): .npy, .safetensors or .safetensors:NAME"
    parser.add_argument("--anchors", metavar="FILE", required=True, help=embeddings)
    parser.add_argument("--candidates", metavar="FILE", required=True, help="embeddings (M, D) of the same type")
    parser.add_argument("--k", type=positive, required=True, help="candidates listed for each anchor")
    parser.add_argument("--both", action="store_true", help="list anchors for each candidate as well")
    parser.add_argument("--k-reverse", type=positive, help="anchors listed for each candidate (as --k)")
    parser.add_argument("--anchor-ids", type=Path, metavar="FILE", help=".npy (N,): equal ids belong together")
    parser.add_argument("--candidate-ids", type=Path, metavar="FILE", help=".npy (M,)")
    parser.add_argument("--text-image-index", type=Path, metavar="FILE", help=".npy: the image of each text, as ids")
    parser.add_argument(
        "--captions", type=Path, metavar="FILE", help="one text a line: those that repeat an own one are no negatives"
    )
    parser.add_argument(
        "--texts",
        choices=("anchors", "candidates"),
        default="candidates",
        help="which side is the texts (candidates); written to the manifest",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    _add_shared(parser)
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=folder, required=True, help="the folder for the lists (offline.lists of a configuration)"
    )
    parser.add_argument("--skip", type=_count, default=0, help="leave so many of the hardest out of every list (0)")
    parser.add_argument("--margin", type=float, help="negatives score at most the best own score less this")
    parser.add_argument("--relative-margin", type=float, help="the same, as a share of that score's size")
    parser.add_argument("--max-score", type=float, help="negatives score at most this")
    parser.add_argument("--memory-limit", type=_amount, metavar="SIZE", help="such as 8GB or 500MB (4.3GB)")
    parser.add_argument("--threads", type=positive, help="CPU threads of a process")
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--authors-layout", type=folder, metavar="DIR", help="also write i2t_NAME.npy and t2i_NAME.npy")
    parser.add_argument("--data-name", help="NAME of these files: coco (the default), f30k, ...")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="also write a page about what was found")
    parser.add_argument("--earlier", type=Path, metavar="DIR", help="lists that the page compares these with")


def _check_shared(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    for name, needed in (("earlier", "report"), ("data_name", "authors_layout")):
        if getattr(parsed, name) is not None and getattr(parsed, needed) is None:
            parser.error(f"{_option(name)} needs {_option(needed)}")
    check_writable(parser, "--report", parsed.report, ".html")
    if parsed.report is not None:
        import aoq_ext.report.mined  # noqa: F401  # whose libraries are missed before the work
    check_folder(parser, "--authors-layout", parsed.authors_layout)
    if parsed.data_name is not None:
        from aoq_ext.lists.authors_layout import checked_name

        with naming_options(parser):
            checked_name(parsed.data_name)


def _check_run(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        parser.error(
            f"--run is mined by one process, got {world} of them from torchrun; start it without, or mine between files"
        )


def _check_files(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if (parsed.anchor_ids is None) != (parsed.candidate_ids is None):
        parser.error("--anchor-ids and --candidate-ids go together")
    if parsed.captions is not None and parsed.text_image_index is None:
        parser.error("--captions needs --text-image-index")
    if not parsed.both:
        for name in ("k_reverse", "authors_layout"):
            if getattr(parsed, name) is not None:
                parser.error(f"{_option(name)} needs --both")
        if parsed.report is not None and parsed.texts == "anchors":
            parser.error("--report with --texts anchors needs --both: the page is about the texts of each image")
    if not (parsed.anchor_ids or parsed.text_image_index or parsed.authors_layout):
        for name in ("margin", "relative_margin"):
            if getattr(parsed, name) is not None:
                parser.error(f"{_option(name)} needs --text-image-index, or --anchor-ids and --candidate-ids")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _amount(text: str) -> int:
    """Bytes: 8GB, 1.5GiB, 500M, ..."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise argparse.ArgumentTypeError(f"expected a size such as 8GB, got {text!r}")
    unit = _UNITS[found[2].upper()]
    if found[3]:
        unit = 1024 ** list(_UNITS).index(found[2].upper())
    amount = int(float(found[1]) * unit)
    if amount < 1:
        raise argparse.ArgumentTypeError(f"expected a size of at least a byte, got {text!r}")
    return amount
