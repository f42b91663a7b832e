"""Checkpoints: written whole or not at all, and read without running any code from them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aoq_ext._files import write_bytes_atomically

_FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """state: tensors, numbers, strings, lists and dicts only."""
    content = io.BytesIO()  # given the file itself, torch.save hides why the file could not be written
    torch.save({"format": _FORMAT, **state}, content)
    try:
        write_bytes_atomically(path, content.getbuffer())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


def restore_model(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Give ``model`` the weights in ``state``, which was read from ``path``."""
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights do not fit the encoders of the configuration "
            f"({str(error).splitlines()[1].strip():.200})"
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: no checkpoint was written there")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path}: expected a checkpoint of format {_FORMAT}, got {found}")
    return state
