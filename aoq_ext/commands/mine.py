"""``aoq mine``"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
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
_K_TEXT, _K_IMAGE = 300, 60

# Options of one way to mine, which mean nothing to the other; none has a default in the parser.
_OF_RUNS = ("root", "k_text", "k_image", "repeated_captions", "overwrite")
_OF_FILES = (
    "candidates", "k", "k_reverse", "both", "anchor_ids", "candidate_ids", "captions", "text_image_index", "texts",
    "dry_run",
)  # fmt: skip


def run(argv: Sequence[str]) -> int:
    parser = make_parser(
        "mine",
        "List the hardest negatives: of a training set, as a trained model sees it (--run), or between two files of "
        "embeddings (--anchors, --candidates). Mining that was stopped is continued by the same command.",
    )
    parser.add_argument("--out", type=folder, help="the folder for the lists (offline.lists of a configuration)")
    parser.add_argument("--device", type=device, help="cpu or cuda (cpu)")
    parser.add_argument("--authors-layout", type=folder, metavar="DIR", help="also write i2t_NAME.npy and t2i_NAME.npy")
    parser.add_argument("--data-name", help="NAME of these files: coco (the default), f30k, ...")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="also write a page about what was found")
    parser.add_argument("--earlier", type=Path, metavar="DIR", help="lists that the page compares these with")
    _add_rules(parser)
    _add_run_arguments(parser.add_argument_group("a training set"))
    _add_file_arguments(parser.add_argument_group("between files"))
    parsed = parser.parse_args(argv)
    _check(parser, parsed)
    with naming_options(parser):
        if parsed.run is not None:
            from aoq_ext.commands.mine_run import mine

            parsed.k_text, parsed.k_image = parsed.k_text or _K_TEXT, parsed.k_image or _K_IMAGE
            return mine(parsed)
        from aoq_ext.commands.mine_files import mine

        return mine(parsed)


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip", type=_count, help="leave so many of the hardest out of every list (0)")
    parser.add_argument("--margin", type=float, help="negatives score at most the best own score less this")
    parser.add_argument("--relative-margin", type=float, help="the same, as a share of that score's size")
    parser.add_argument("--max-score", type=float, help="negatives score at most this")
    parser.add_argument("--memory-limit", type=_amount, metavar="SIZE", help="such as 8GB or 500MB (4.3GB)")
    parser.add_argument("--threads", type=positive, help="CPU threads of a process")


def _add_run_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--run", type=Path, help="the folder of a training run")
    group.add_argument("--root", type=folder, help="where its data is now (as trained)")
    group.add_argument("--k-text", type=positive, help=f"texts listed for each image ({_K_TEXT})")
    group.add_argument("--k-image", type=positive, help=f"images listed for each text ({_K_IMAGE})")
    group.add_argument(
        "--repeated-captions",
        action="store_true",
        default=None,
        help="allow as negatives of an image the texts that repeat a caption of it",
    )
    group.add_argument(
        "--overwrite", action="store_true", default=None, help="replace lists of other weights, lengths or rules"
    )


def _add_file_arguments(group: argparse._ArgumentGroup) -> None:
    embeddings = "embeddings (N, D): .npy, .safetensors or .safetensors:NAME"
    group.add_argument("--anchors", metavar="FILE", help=embeddings)
    group.add_argument("--candidates", metavar="FILE", help="embeddings (M, D) of the same type")
    group.add_argument("--k", type=positive, help="candidates listed for each anchor")
    group.add_argument("--both", action="store_true", default=None, help="list anchors for each candidate as well")
    group.add_argument("--k-reverse", type=positive, help="anchors listed for each candidate (as --k)")
    group.add_argument("--anchor-ids", type=Path, metavar="FILE", help=".npy (N,): equal ids belong together")
    group.add_argument("--candidate-ids", type=Path, metavar="FILE", help=".npy (M,)")
    group.add_argument("--text-image-index", type=Path, metavar="FILE", help=".npy: the image of each text, as ids")
    group.add_argument(
        "--captions", type=Path, metavar="FILE", help="one text a line: those that repeat an own one are no negatives"
    )
    group.add_argument("--texts", choices=("anchors", "candidates"), help="which side is the texts (candidates)")
    group.add_argument("--dry-run", action="store_true", default=None, help="say what would be done, and write nothing")


def _check(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    if (parsed.run is None) == (parsed.anchors is None):
        parser.error("expected --run, --out for a training set, or --anchors, --candidates, --k, --out between files")
    ours, others = (_OF_RUNS, _OF_FILES) if parsed.run is not None else (_OF_FILES, _OF_RUNS)
    for name in others:
        if getattr(parsed, name) is not None:
            parser.error(f"{_option(name)} does not go with {'--run' if parsed.run is not None else '--anchors'}")
    for name in ("out",) if ours is _OF_RUNS else ("candidates", "k", "out"):
        if getattr(parsed, name) is None:
            parser.error(f"the following arguments are required: {_option(name)}")
    for name, needed in (("k_reverse", "both"), ("captions", "text_image_index"), ("earlier", "report")):
        if getattr(parsed, name) is not None and getattr(parsed, needed) is None:
            parser.error(f"{_option(name)} needs {_option(needed)}")
    if parsed.data_name is not None and parsed.authors_layout is None:
        parser.error("--data-name needs --authors-layout")
    if parsed.authors_layout is not None and parsed.anchors is not None and parsed.both is None:
        parser.error("--authors-layout needs --both")
    if parsed.report is not None and parsed.texts == "anchors" and parsed.both is None:
        parser.error("--report with --texts anchors needs --both: the page is about the texts of each image")
    if (parsed.anchor_ids is None) != (parsed.candidate_ids is None):
        parser.error("--anchor-ids and --candidate-ids go together")
    if parsed.anchors is not None and not (parsed.anchor_ids or parsed.text_image_index or parsed.authors_layout):
        for name in ("margin", "relative_margin"):
            if getattr(parsed, name) is not None:
                parser.error(f"{_option(name)} needs --text-image-index, or --anchor-ids and --candidate-ids")
    if parsed.run is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        parser.error(
            f"--run is mined by one process, got {os.environ['WORLD_SIZE']} of them from torchrun; "
            "start it without, or mine between files"
        )
    check_writable(parser, "--report", parsed.report, ".html")
    check_folder(parser, "--authors-layout", parsed.authors_layout)
    if parsed.data_name is not None:
        from aoq_ext.lists.authors_layout import checked_name

        with naming_options(parser):
            checked_name(parsed.data_name)


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
