"""Counts the multiplications of a rank. The count shows whether a right answer was computed with unnecessary work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labkit.exercises.contracts import Dispatches, Functions
from labkit.measure.torch_traffic import tensors_in

_PRODUCTS: dict[str, Callable[..., int]] = {
    "mm": lambda a, b: a.numel() * b.shape[-1],
    "bmm": lambda a, b: a.numel() * b.shape[-1],
    "addmm": lambda bias, a, b: a.numel() * b.shape[-1],
    "baddbmm": lambda bias, a, b: a.numel() * b.shape[-1],
    "addbmm": lambda bias, a, b: a.numel() * b.shape[-1],
    "mv": lambda a, b: a.numel(),
    "addmv": lambda bias, a, b: a.numel(),
    "dot": lambda a, b: a.numel(),
    "vdot": lambda a, b: a.numel(),
}
"""For each matrix or vector product that torch runs at the lowest level, a function that computes its number of multiplications
from its arguments.
"""

_ELEMENTWISE = ("mul", "div", "addcmul", "addcdiv", "addr")
_LEAVES_TORCH = ("numpy", "tolist", "__array__", "__dlpack__")


@dataclass
class Work:
    """The number of multiplications so far.

    The object also stores the largest number of values that a single call copied from torch to Python, because work outside
    torch cannot be counted.
    """

    multiplied: int = 0
    taken_out: int = 0

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        if getattr(func, "__name__", "") in _LEAVES_TORCH:
            self.taken_out = max([self.taken_out, *(tensor.numel() for tensor in tensors_in(args))])
        return func(*args, **kwargs)

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        outcome = func(*args, **kwargs)
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in _PRODUCTS:
            self.multiplied += _PRODUCTS[name](*args)
        elif name in _ELEMENTWISE and isinstance(outcome, Tensor) and outcome.is_floating_point():
            self.multiplied += outcome.numel()
        return outcome

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count the multiplications that torch runs in this block."""
        with Functions(self._function), Dispatches(self._dispatch):
            yield
