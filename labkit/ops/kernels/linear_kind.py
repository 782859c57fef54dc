"""Defines the base class for kinds of weight. Each kind has its own GPU kernels.

A kind is defined in a file `linear_kind_<name>.py`, as the object `KIND`.
"""

from __future__ import annotations

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.ops.kernels.linear_plan import Plan
from labkit.weight_formats import FORMATS, QuantizedWeight

GPUWeight = Tensor | QuantizedWeight
"""A weight that the GPU kernels accept."""
KINDS = ("dense", *FORMATS)
"""The names of all kinds."""


class LinearKind(ABC):
    """The kernels of one kind of weight. `quantize(dense)` returns a weight of this kind.

    `streamed_rows`: labkit's own kernels run for at most this many rows, because reading the weight then takes most of the
    time. For more rows, the plan `CUBLAS` runs. `head_name`: the kind of weight that the head of such a model has.
    """

    name: str
    head_name: str
    streamed_rows: int = 64

    @abstractmethod
    def quantize(self, dense: Tensor) -> Any:
        """Turn a dense `[out, in]` matrix into a weight of this kind."""

    def check(self, arch: int) -> None:  # noqa: B027 - most kinds run on every GPU
        """Raise `NotAvailable` if a GPU of this compute capability (80 or 90) cannot multiply by this kind."""

    def one_row_plans(self, num_in: int, group: int, dtype: torch.dtype) -> list[Plan]:
        """Return the plans for a single row, which come before the plans from `tiles`. The first plan is the default."""
        return []

    @abstractmethod
    def tiles(self, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
        """Return the tiles of the kernel for few rows. `dtype` is the dtype of x."""

    @abstractmethod
    def run(self, plan: Plan, x: Tensor, weight: Any, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """Compute the layer as `plan` says; `x` `[rows, in]` is contiguous and not empty."""


def quantizer(name: str) -> Callable[[Tensor], GPUWeight]:
    """Return the function that turns a dense matrix into a weight of the kind `name`."""
    return kind_named(name).quantize


@functools.cache
def kind_named(name: str) -> LinearKind:
    """Return the kind with this name, one of `KINDS`."""
    kind: LinearKind = importlib.import_module(f"labkit.ops.kernels.linear_kind_{name}").KIND
    return kind


def kind_of(weight: GPUWeight) -> LinearKind:
    """Return the kind of a weight."""
    return kind_named("dense" if isinstance(weight, Tensor) else weight.kind)
