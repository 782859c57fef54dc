"""A short description of an exercise's inputs. The description shows whether two machines draw the same inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison

CLOSE = Comparison(relative=1e-5)
"""Compares two sums. Builds of torch can round a random number differently, but sums of different numbers differ far more."""


@dataclass(frozen=True)
class InputSketch:
    """The inputs of one seed: a hash of everything but tensors, and for each tensor the sum of its absolute values."""

    plain: str
    sums: tuple[float, ...]

    def is_like(self, other: InputSketch) -> bool:
        """Whether this sketch and `other` describe the same inputs."""
        return self.plain == other.plain and CLOSE.difference(list(self.sums), list(other.sums)) is None


def sketch(cases: Sequence[Case]) -> InputSketch:
    """Make the sketch of the cases of one seed. If an object is not a plain value, only the name of its type is used."""
    parts = list(_parts(list(cases)))
    plain = [part for part in parts if not isinstance(part, _Sum)]
    digest = hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]
    return InputSketch(digest, tuple(part.size for part in parts if isinstance(part, _Sum)))


@dataclass(frozen=True)
class _Sum:
    size: float


def _parts(value: Any) -> Iterator[str | _Sum]:
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().double()
        yield f"{value.dtype} {list(value.shape)}"
        yield _Sum(float(numbers[numbers.isfinite()].abs().sum()))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"{len(value)} items"
        for item in value:
            yield from _parts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__
        for each in fields(value):
            yield from _parts(getattr(value, each.name))
    elif isinstance(value, float):
        yield f"{value:.6g}"
    else:
        yield repr(value) if value is None or isinstance(value, bool | int | str | bytes) else type(value).__name__
