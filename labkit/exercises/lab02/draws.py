"""Random tensors for the exercises' inputs.

The tensors are made on the CPU, so that every machine gets the same numbers, and then moved to the device of the kernels.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from labkit.exercises.kernels import kernel_device

AROUND = 67
"""The smallest number of elements in the gap before and after each tensor.

The gaps reveal an access outside a tensor, and they make each tensor start at an unaligned address.
"""
_WHOLE_GAP = 63
"""The value that fills a gap around a tensor of whole numbers."""


class Draws:
    """Makes random tensors from a seed. Each floating-point tensor is a part of a larger tensor of NaN."""

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
    """A contiguous copy of these values, with a gap before and after it in memory.

    Each gap has at least as many elements as the tensor. So an address that is wrong by up to the length of the tensor does not
    reach another tensor. A gap around floating-point values is filled with NaN.
    """
    around = AROUND + 8 * (values.numel() // 8)  # still unaligned
    gap = float("nan") if values.is_floating_point() else _WHOLE_GAP
    wide = values.new_full((values.numel() + 2 * around,), gap, device=kernel_device())
    inner = wide[around : around + values.numel()].view(values.shape)
    return inner.copy_(values)
