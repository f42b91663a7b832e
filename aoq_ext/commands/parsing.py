"""What the commands' parsers share."""

from __future__ import annotations

import argparse
from typing import Any


class UsageError(Exception):
    """A command line that makes no sense."""


class Parser(argparse.ArgumentParser):
    """argparse, except that an error is one line, and `aoq_ext.cli.main` chooses how to show it."""

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
