"""Random tensors for the exercises' cases: made on the CPU, to be equal everywhere, then moved to the kernels' device."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from labkit.exercises.kernels import kernel_device

AROUND = 67
"""Elements of NaN before and after each tensor: a read past an end is noticed, and no tensor starts at an aligned address."""


class Draws:
    """Seeded random tensors; each floating-point one lies inside a larger tensor of NaN."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Normally distributed numbers with standard deviation `scale`."""
        return guarded((scale * torch.randn(shape, generator=self._generator)).to(dtype))

    def permutation(self, count: int) -> Tensor:
        """The numbers 0 to `count - 1`, shuffled, int64."""
        return torch.randperm(count, generator=self._generator).to(kernel_device())


def guarded(values: Tensor) -> Tensor:
    """The same values, contiguous, with NaN around them."""
    wide = values.new_full((values.numel() + 2 * AROUND,), float("nan"), device=kernel_device())
    inner = wide[AROUND : AROUND + values.numel()].view(values.shape)
    return inner.copy_(values)
