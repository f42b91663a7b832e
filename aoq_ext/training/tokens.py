"""Captions as tokens, by the tokenizer of a configuration or the words of the training set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from aoq_ext._scalars import as_strings
from aoq_ext.data import Tokenizer, Vocabulary
from aoq_ext.training.components import build
from aoq_ext.training.config import Component, ConfigError, DataConfig
from aoq_ext.training.run import RunFiles


def make_tokenizer(config: DataConfig, captions: Sequence[str]) -> Tokenizer:
    """``data.tokenizer``, or the vocabulary of the training ``captions``."""
    if config.tokenizer is None:
        return Vocabulary.build(captions, min_count=config.min_count)
    return _build(config.tokenizer)


def load_tokenizer(config: DataConfig, files: RunFiles) -> Tokenizer:
    """That of a run: a vocabulary from its folder, any other built again."""
    if files.vocabulary.is_file():
        return Vocabulary.load(files.vocabulary)
    if config.tokenizer is None:
        raise ConfigError(f"run: expected the folder of a training run, but {files.vocabulary} is missing")
    return _build(config.tokenizer)


def encode_captions(tokenizer: Tokenizer, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """M captions -> tokens (M, L) and lengths (M,), both int64; ConfigError for what no encoder can read."""
    captions = as_strings("captions", captions)
    returned = tokenizer.encode(captions)
    try:
        tokens, lengths = returned
    except (TypeError, ValueError):
        raise _wrong("tokens and lengths", type(returned).__name__) from None
    for name, tensor, dim in (("tokens (M, L)", tokens, 2), ("lengths (M,)", lengths, 1)):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64 or tensor.dim() != dim:
            raise _wrong(f"{name} as a tensor of int64", _described(tensor))
        if len(tensor) != len(captions):
            raise _wrong(f"{name} of {len(captions)} captions", f"{len(tensor)} rows")
    if len(captions):
        _check_range("lengths", lengths, 1, tokens.shape[1])
        _check_range("tokens", tokens, 0, len(tokenizer) - 1)
    return tokens, lengths


def fingerprint_tokens(tokenizer: Tokenizer, tokens: Tensor, lengths: Tensor) -> str:
    """tokens: (M, L); lengths: (M,)"""
    digest = hashlib.sha256(f"{len(tokenizer)} {tuple(tokens.shape)}".encode())
    for tensor in (tokens, lengths):
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _build(component: Component) -> Tokenizer:
    tokenizer = build(component, "data.tokenizer")
    if not isinstance(tokenizer, Tokenizer):
        raise ConfigError(
            f"data.tokenizer.factory: expected an object with encode(captions) and len(), "
            f"got {type(tokenizer).__name__} from {component.factory}"
        )
    return tokenizer


def _check_range(name: str, values: Tensor, least: int, most: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < least or high > most:
        raise _wrong(f"{name} from {least} to {most}", f"{low} to {high}")


def _wrong(expected: str, got: str) -> ConfigError:
    return ConfigError(f"data.tokenizer: expected encode(captions) to return {expected}, got {got}")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
