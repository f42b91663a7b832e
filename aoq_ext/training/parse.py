"""Configurations from YAML files and command-line flags."""

from __future__ import annotations

import os
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from aoq_ext._files import expanded
from aoq_ext._scalars import as_strings
from aoq_ext.training.config import ConfigError, TrainConfig


def add_config_arguments(parser: ArgumentParser) -> None:
    """``--config FILE``, and a flag for every entry, which overrides the file's."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the strings under the entries are their help
    parser.add_argument("--config", action="config", help="a YAML file with any of the entries below")
    parser.add_argument("--base", help="in a file: another, beside it, whose entries hold where this one has none")
    parser.add_class_arguments(TrainConfig)


def config_first(arguments: Sequence[str]) -> list[str]:
    """The same command line with --config in front, so that flags override the file wherever they stand, and before
    each file its base."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(as_strings("arguments", arguments))
    for argument in rest:
        if argument == "--config":
            files += [] if (value := next(rest, None)) is None else [value]
        elif argument.startswith("--config="):
            files.append(argument.removeprefix("--config="))
        else:
            others.append(argument)
    return [*(f"--config={file}" for path in files for file in _with_bases(path)), *others]


def _with_bases(path: str) -> list[str]:
    """A file and those it builds on, the first of them first; what cannot be read is left to the parser to refuse."""
    found: list[str] = []
    while path not in found:
        found.insert(0, path)
        try:
            content = yaml.safe_load(expanded(Path(path)).read_text())
        except (OSError, ValueError, yaml.YAMLError):
            return found
        base = content.get("base") if isinstance(content, dict) else None
        if base is None:
            return found
        path = os.path.normpath(Path(path).parent / expanded(str(base)))
    raise ConfigError(f"base: expected files that build on one another, got {path} as a base of itself")


def config_from(namespace: Namespace, parser: ArgumentParser) -> TrainConfig:
    """The configuration in a parsed command line, which may hold other arguments too."""
    entries = parser.instantiate(namespace)
    names = TrainConfig.__dataclass_fields__
    return TrainConfig(**{name: entries[name] for name in names})


def load_config(path: str | Path, **overrides: Any) -> TrainConfig:
    """The configuration in a YAML file, with ``overrides`` by dotted name: ``**{"loss.alpha": 0.2}``."""
    path = expanded(Path(path))
    if not path.is_file():
        raise ConfigError(f"config: expected a YAML file, but {path} does not exist")
    flags = [f"--{name}={'null' if value is None else value}" for name, value in overrides.items()]
    try:
        return parse_config(["--config", str(path), *flags])
    except ArgumentError as error:
        raise ConfigError(f"config: {path}: {' '.join(str(error).split())}") from error


def parse_config(arguments: Sequence[str]) -> TrainConfig:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_config_arguments(parser)
    return config_from(parser.parse_args(config_first(arguments)), parser)
