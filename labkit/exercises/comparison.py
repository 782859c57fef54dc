"""Compares a learner's answer with the right answer. The tolerance depends on the dtype, and is relative to the size of the
values.

An answer is a plain value: a number, string, boolean or tensor, or a list, tuple or dictionary of such values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""For each dtype, the tolerance for tensors: the largest allowed error divided by the largest value of the right answer."""

STORED = (torch.bool, torch.uint8, torch.int8)
"""The dtypes of masks, and of numbers that are stored in one byte. If the right answer has one of these dtypes, the learner's
answer must have the same dtype. Other whole numbers can have any integer dtype.
"""


@dataclass(frozen=True)
class Difference:
    """The first place where an answer differs: its path, the value found, the value expected, and the kind of difference."""

    path: str
    found: Any
    expected: Any
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Compares an answer with the right answer.

    `relative` is the tolerance for floating-point numbers; whole numbers must be equal. For two tensors, the tolerance is the
    largest of three numbers: `relative`, and for each of the two tensors the value of `RELATIVE` for its dtype.
    """

    relative: float = 1e-6

    def difference(self, found: Any, expected: Any, path: str = "") -> Difference | None:
        """The first place where `found` differs from `expected`, or None if the answer is right."""
        if isinstance(expected, Tensor):
            return self._tensor(found, expected, path)
        if isinstance(expected, bool | str) or expected is None:
            equal = type(found) is type(expected) and found == expected
            return None if equal else Difference(path, found, expected, "value")
        if isinstance(expected, int | float):
            return self._number(found, expected, path)
        if isinstance(expected, dict):
            return self._dictionary(found, expected, path)
        return self._sequence(found, expected, path)

    def _number(self, found: Any, expected: float, path: str) -> Difference | None:
        if hasattr(found, "item") and getattr(found, "ndim", 0) == 0:
            found = found.item()  # a tensor without dimensions, or one of numpy's scalars
        if isinstance(found, bool) or not isinstance(found, int | float):
            return Difference(path, found, expected, "type")
        if math.isnan(found) or math.isinf(found):
            return Difference(path, found, expected, "not finite")
        exact = isinstance(expected, int)
        tolerance = 0.0 if exact else self.relative * abs(expected)
        return None if abs(found - expected) <= tolerance else Difference(path, found, expected, "value")

    def _dictionary(self, found: Any, expected: dict[Any, Any], path: str) -> Difference | None:
        if not isinstance(found, dict):
            return Difference(path, found, expected, "type")
        if set(found) != set(expected):
            return Difference(path, sorted(map(str, found)), sorted(map(str, expected)), "keys")
        differences = (self.difference(found[key], expected[key], f"{path}[{key!r}]") for key in expected)
        return next(filter(None, differences), None)

    def _sequence(self, found: Any, expected: Any, path: str) -> Difference | None:
        if not isinstance(found, list | tuple):
            return Difference(path, found, expected, "type")
        if len(found) != len(expected):
            return Difference(path, found, expected, "length")
        pairs = enumerate(zip(found, expected, strict=True))
        differences = (self.difference(a, b, f"{path}[{index}]") for index, (a, b) in pairs)
        return next(filter(None, differences), None)

    def _tensor(self, found: Any, expected: Tensor, path: str) -> Difference | None:
        if not isinstance(found, Tensor):
            return Difference(path, found, expected, "type")
        if found.shape != expected.shape:
            return Difference(path, found, expected, "shape")
        is_stored = expected.dtype in STORED and found.dtype != expected.dtype
        if is_stored or found.is_floating_point() != expected.is_floating_point():
            return Difference(path, found, expected, "dtype")
        if not expected.is_floating_point():
            return (
                None if torch.equal(found.cpu().long(), expected.cpu().long()) else Difference(path, found, expected, "value")
            )
        a, b = found.detach().cpu().double(), expected.detach().cpu().double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return Difference(path, found, expected, "not finite")
        # The places of NaNs are compared, too, so that a known mistake that returns NaN is recognised.
        a, b = a[a.isfinite()], b[b.isfinite()]
        if not len(b):
            return None
        limit = max(RELATIVE[found.dtype], RELATIVE[expected.dtype], self.relative) * float(b.abs().max())
        return None if float((a - b).abs().max()) <= limit else Difference(path, found, expected, "value")
