"""The command line: ``aoq train | mine | eval | recipe | data | demo | doctor``.

Each command imports what it needs only when it is called, so that ``aoq doctor`` runs where training cannot, and only
after its options are read, so that ``--help`` needs no torch (``aoq_command.py``).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from aoq_ext._scalars import as_strings
from aoq_ext._version import __version__
from aoq_ext.commands import data, evaluate, mine, recipe
from aoq_ext.commands.parsing import TRAIN_MODULES, UsageError, make_parser

_USAGE_ERROR = 2  # the exit status argparse uses
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for a failure, 2 for a command line that makes no sense."""
    arguments = as_strings("argv", sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a mark still gets the text
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that a configuration can name a module beside it, as under `python -m`
    debug = "--debug" in arguments or os.environ.get("AOQ_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments and arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments == ["--version"]:
        print(f"aoq_ext {__version__}")
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        if arguments:
            print(f"aoq: there is no command {arguments[0]!r}\n", file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return _USAGE_ERROR
    name, *rest = arguments
    try:
        return _COMMANDS[name][1](rest)
    except KeyboardInterrupt as stop:  # a command that knows how to go on says so in it
        same = "; the same command continues it"
        known = {"train": "; --resume continues it", "demo": same, "recipe": same}
        again = f"; {stop}" if str(stop) else known.get(name, "")
        print(f"aoq {name}: interrupted{again}", file=sys.stderr)
        return _INTERRUPTED
    except Exception as error:
        if debug:
            raise
        print(f"aoq {name}: error: {_explain(error)}", file=sys.stderr)
        return _USAGE_ERROR if isinstance(error, (UsageError, argparse.ArgumentError)) else 1


def _train(argv: Sequence[str]) -> int:
    from jsonargparse import ArgumentParser

    from aoq_ext.training.parse import add_config_arguments, config_first, config_from

    parser = ArgumentParser(
        prog="aoq train",
        description="Train an image and a text encoder. Without --config: the first round on the bundled data.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in `run` from its last checkpoint")
    add_config_arguments(parser)
    parsed = parser.parse_args(config_first(argv))

    from aoq_ext.training.trainer import train

    folder = train(config_from(parsed, parser), resume=parsed.resume)
    if os.environ.get("RANK", "0") == "0":  # of the processes of torchrun, one speaks
        print(f"the run is in {folder}")
    return 0


def _demo(argv: Sequence[str]) -> int:
    parser = make_parser(
        "demo", "Train, mine, train again, evaluate, and write a report: the whole method in a few minutes."
    )
    parser.add_argument("--out", type=Path, help="the folder for everything (runs/demo; with --quick runs/demo-quick)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to see that everything works")
    parsed = parser.parse_args(argv)

    from aoq_ext.demo import run_demo

    folder = parsed.out or Path("runs/demo-quick" if parsed.quick else "runs/demo")
    run_demo(folder, seed=parsed.seed, quick=parsed.quick)
    return 0


def _doctor(argv: Sequence[str]) -> int:
    parser = make_parser("doctor", "What is installed, what was compiled, which kernels run, and what is wrong.")
    parser.parse_args(argv)

    from aoq_ext.doctor import main as examine

    return examine()


_COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "train": ("train a model from a configuration file", _train),
    "mine": ("list the hardest negatives of a training set, or between files", mine.run),
    "eval": ("recall and ranks of a trained model, of embeddings or of scores", evaluate.run),
    "recipe": ("do all of a paper's experiment: both rounds, mining, a control and evaluation", recipe.run),
    "data": ("check a data set in one of the formats of the field", data.run),
    "demo": ("do all of it on the bundled data and write a report", _demo),
    "doctor": ("say what is installed, what runs, and what is wrong", _doctor),
}


def _usage() -> str:
    lines = "\n".join(f"  {name:<8} {summary}" for name, (summary, _) in _COMMANDS.items())
    more = "aoq COMMAND --help lists a command's options. --debug (or AOQ_DEBUG=1) shows where an error came from."
    return f"usage: aoq COMMAND [options]\n\n{lines}\n\n{more}"


def _explain(error: Exception) -> str:
    """One line for a person."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in TRAIN_MODULES:
        return f'this command needs {error.name}, which is not installed: pip install "aoq_ext[train]"'
    message = " ".join(str(error).split())
    expected = isinstance(error, (UsageError, ValueError, RuntimeError, OSError, argparse.ArgumentError))
    return message if expected and message else f"{type(error).__name__}: {message} (--debug shows where)"
