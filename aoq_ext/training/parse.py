"""Configurations from YAML files and command-line flags."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from aoq_ext._files import expanded
from aoq_ext.training.config import ConfigError, TrainConfig


def add_config_arguments(parser: ArgumentParser) -> None:
    """``--config FILE``, and a flag for every entry, which overrides the file's."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the strings under the entries are their help
    parser.add_argument("--config", action="config", help="a YAML file with any of the entries below")
    parser.add_class_arguments(TrainConfig)


def config_first(arguments: Sequence[str]) -> list[str]:
    """The same command line with --config in front, so that flags override the file wherever they stand."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config":
            files += [argument, *([value] if (value := next(rest, None)) is not None else [])]
        else:
            (files if argument.startswith("--config=") else others).append(argument)
    return files + others


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
