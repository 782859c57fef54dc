"""Random tensors for the cases.

They are made on the CPU, so that they are the same on every machine, then moved to the device of the kernels.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from labkit.exercises.kernels import kernel_device

AROUND = 67
"""The number of NaN before and after each tensor.

They reveal a read before or after a tensor, and they make each tensor start at an unaligned address.
"""


class Draws:
    """Random tensors from a seed. Each floating-point tensor lies inside a larger tensor of NaN."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Normally distributed numbers with standard deviation `scale`."""
        return guarded((scale * torch.randn(shape, generator=self._generator)).to(dtype))

    def permutation(self, count: int) -> Tensor:
        """The integers from 0 to `count - 1` in random order, int64."""
        return torch.randperm(count, generator=self._generator).to(kernel_device())


def guarded(values: Tensor) -> Tensor:
    """A contiguous copy of these values. In memory, NaN stand before and after it."""
    wide = values.new_full((values.numel() + 2 * AROUND,), float("nan"), device=kernel_device())
    inner = wide[AROUND : AROUND + values.numel()].view(values.shape)
    return inner.copy_(values)
