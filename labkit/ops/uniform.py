"""Makes random numbers that depend only on counters, so that they are the same on every device and in every batch."""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """The int64 that has the 64 bits of `word`. torch cannot multiply uint64, but int64 products overflow to the same bits."""
    return word - (1 << 64) if word >> 63 else word


_INCREMENT = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def uniform(seeds: Tensor, samples: Tensor, positions: Tensor) -> Tensor:
    """Uniform random numbers in [0, 1), one per row, from SplitMix64's mixer (Steele et al. 2014) applied three times.

    `seeds` (64 bits, read as int64), `samples` and `positions` are `[rows]` int64. Returns `[rows]` float64; each number has 53
    random bits.
    """
    state = torch.zeros_like(seeds)
    for word in (seeds, samples, positions):
        state = _mix((state ^ word) + _INCREMENT)
    return _shifted(state, 11).double() / (1 << 53)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shifted(z, 30)) * _FIRST
    z = (z ^ _shifted(z, 27)) * _SECOND
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, count: int) -> Tensor:
    """Shift right and fill with zeros, unlike int64's own shift, which copies the sign bit."""
    return (z >> count) & ((1 << (64 - count)) - 1)
