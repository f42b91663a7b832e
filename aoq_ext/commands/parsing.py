"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aoq_ext._files import expanded, nearest_existing

# Modules that only an extra brings, by the name they are imported with.
TRAIN_MODULES = {
    "jinja2",
    "jsonargparse",
    "lightning_fabric",
    "matplotlib",
    "numpy",
    "PIL",
    "rich",
    "safetensors",
    "tensorboard",
    "yaml",
}


class UsageError(Exception):
    """A command line that makes no sense."""


class Parser(argparse.ArgumentParser):
    """argparse, except that ``~`` is the home folder, also in ``--option=~/file``, and that an error is one line.

    `aoq_ext.cli.main` chooses how to show it.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = super().parse_known_args(args, namespace)
        for name, value in vars(parsed).items():
            setattr(parsed, name, expanded(value))
        return parsed, rest

    def error(self, message: str) -> Any:
        raise UsageError(f"{message} (see {self.prog} --help)")


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of ``aoq name``."""
    return Parser(prog=f"aoq {name}", description=description, allow_abbrev=False)


def positive(text: str) -> int:
    """A positive whole number."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return value


def folder(text: str) -> Path:
    """A folder, there or not."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, got ''")
    return Path(text)


def device(text: str) -> str:
    """A device of this machine."""
    from aoq_ext.mining.devices import checked_device

    try:
        return str(checked_device(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected " + str(error).removeprefix("device must be ")) from error


def check_writable(parser: argparse.ArgumentParser, option: str, path: Path | None, suffix: str | None = None) -> None:
    """Before the work: an error unless a file can be written to ``path`` after it."""
    if path is None:
        return
    if suffix is not None and path.suffix != suffix:
        parser.error(f"{option}: expected a {suffix} file, got {path}")
    if path.is_dir():
        parser.error(f"{option}: expected a file, got {path}, which is a folder")
    check_folder(parser, option, path.parent)


def check_folder(parser: argparse.ArgumentParser, option: str, path: Path | None) -> None:
    """Before the work: an error unless files can be written into the folder ``path`` after it."""
    if path is None:
        return
    nearest = nearest_existing(path)
    if not nearest.is_dir():
        parser.error(f"{option}: expected a folder, got {path}, where {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        parser.error(f"{option}: expected a folder that may be written to, got {path}")


@contextmanager
def naming_options(parser: argparse.ArgumentParser, **others: str) -> Iterator[None]:
    """Let errors that begin with a parameter begin with its option; a wrong type is then a wrong value.

    ``others``: options of parameters that go by another name.
    """
    options = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings} | others
    try:
        yield
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        named = re.match(r"(--)?([a-z_][a-z_-]*)(?=[ :\[])", str(error))
        if named is None or not (named[1] or named[2] in options):
            raise
        option = named[0] if named[1] else options[named[2]]
        raise ValueError(option + str(error)[named.end() :]) from error
