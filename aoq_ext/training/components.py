"""Objects named in a configuration by their dotted path."""

from __future__ import annotations

import importlib
import inspect
import os
from typing import Any

from torch import nn

from aoq_ext.training.config import Component, ConfigError


def find(path: str, name: str) -> Any:
    """The object at the dotted ``path``; ``name`` is the configuration entry that an error names."""
    module_path, _, attribute = path.rpartition(".")
    if not module_path:
        raise ConfigError(f"{name}: expected a dotted path such as package.module.Name, got {path!r}")
    try:
        return getattr(importlib.import_module(module_path), attribute)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name}: cannot import {path!r}: {error}; expected it among the installed packages or in the folder that "
            f"aoq is called from, {os.getcwd()}"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{name}: the module {module_path!r} has no {attribute!r}") from error


def build(component: Component, name: str, **given: Any) -> Any:
    """What ``component`` describes, also called with those of ``given`` that it takes."""
    factory = find(component.factory, f"{name}.factory")
    signature = inspect.signature(factory)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    given = {key: value for key, value in given.items() if takes_any or key in signature.parameters}
    try:
        signature.bind(**given, **component.args)
    except TypeError as error:
        raise ConfigError(
            f"{name}.args: expected the arguments of {component.factory}{signature}, got {component.args} ({error})"
        ) from error
    return factory(**given, **component.args)


def build_encoder(component: Component, name: str, **given: Any) -> nn.Module:
    """The module that ``component`` describes, likewise."""
    module = build(component, name, **given)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{name}.factory: expected a torch.nn.Module, got {type(module).__name__} from {component.factory}"
        )
    return module
