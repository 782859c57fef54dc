"""Checks of single values that a caller gives; each refusal names the parameter, what was given and what is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from labkit.errors import InvalidRequest


def is_whole(value: Any, least: int) -> bool:
    """Whether the value is a whole number of at least `least` (True and False are not)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def whole(name: str, value: Any, least: int) -> None:
    """Raise `InvalidRequest` unless the value is a whole number of at least `least`."""
    if not is_whole(value, least):
        raise InvalidRequest(f"{name} is {value!r}; a whole number of at least {least} is accepted")


def number(name: str, value: Any, accepted: str, ok: Callable[[float], bool]) -> None:
    """Raise `InvalidRequest` unless the value is a number for which `ok` holds; `accepted` says that in words."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or not ok(value):
        raise InvalidRequest(f"{name} is {value!r}; {accepted} is accepted")


def words(name: str, values: Iterable[Any]) -> None:
    """Raise `InvalidRequest` unless each value is a string of a character or more, or token ids, one or more."""
    for value in values:
        tokens = isinstance(value, Sequence) and (isinstance(value, str) or all(is_whole(t, 0) for t in value))
        if not tokens or not value:
            raise InvalidRequest(
                f"{name} holds {value!r}; each is a string of at least one character or a sequence of token ids"
            )


def floats(name: str, value: Any, shape: tuple[str, ...]) -> None:
    """Raise `InvalidRequest` unless the value is a tensor of floats, finite, with as many dimensions as `shape` names."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() != len(shape):
        given = f"a {value.dtype} tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise InvalidRequest(f"{name} is {given}; a tensor of floats of shape [{', '.join(shape)}] is accepted")
    if not bool(torch.isfinite(value).all()):
        raise InvalidRequest(f"{name} holds numbers that are not finite; mend them, or leave {name} out")
