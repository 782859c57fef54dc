"""A matrix stored as small integers with scales: the common form of all weight-only integer formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.weight_formats import Int4Weight, Int8Weight

MOST_BITS = 8


@dataclass(frozen=True)
class IntegerScheme:
    """How a matrix is stored as small integers with scales.

    `bits` is the number of bits per integer, and `group_size` is the number of neighbours in a row that share a scale. A
    `group_size` of None means one scale for each output row ("per channel"). A scheme that is not `symmetric` also has a zero
    point for each scale: the integer that stands for 0.
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise InvalidRequest(f"bits is {self.bits!r}; 1 to {MOST_BITS} bits per weight are accepted")
        if self.group_size is not None and self.group_size < 1:
            raise InvalidRequest(f"group size is {self.group_size!r}; a number of at least 1 is accepted")

    def __str__(self) -> str:
        where = "per channel" if self.group_size is None else f"in groups of {self.group_size}"
        return f"int{self.bits} {where}" + ("" if self.symmetric else " with zero points")

    @property
    def lowest(self) -> int:
        """The smallest integer, -2^(bits - 1)."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The largest integer, 2^(bits - 1) - 1."""
        return (1 << (self.bits - 1)) - 1

    def groups(self, in_features: int) -> int:
        """The number of scales in a row of `in_features` numbers."""
        return 1 if self.group_size is None else -(-in_features // self.group_size)

    def group_of(self, in_features: int) -> int:
        """The number of neighbours that share a scale in a row of `in_features` numbers."""
        return in_features if self.group_size is None else self.group_size

    def bits_per_weight(self, in_features: int) -> float:
        """The storage in bits per weight, including the zero points and a 16-bit scale for each group."""
        beside = 16 if self.symmetric else 16 + self.bits
        return self.bits + beside * self.groups(in_features) / in_features


@dataclass(frozen=True)
class IntegerWeight:
    """weight[o, i] = scales[o, g] * (values[o, i] - zero_points[o, g]), where g is the group of column i.

    `values` `[out, in]` are int8 numbers from `scheme.lowest` to `scheme.highest`. `scales` `[out, groups]` are floating-point
    numbers. `zero_points` `[out, groups]` are int8 numbers; `zero_points` is None in a symmetric scheme. `columns` `[in]` int64
    is the group of each column; None means that a group consists of neighbouring columns: column i is in group i // group_size.
    """

    scheme: IntegerScheme
    values: Tensor
    scales: Tensor
    zero_points: Tensor | None = None
    columns: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the matrix."""
        return self.values.shape[0], self.values.shape[1]

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix that the integers stand for, computed in float32 (float64 if `dtype` is float64)."""
        wide = torch.promote_types(dtype, torch.float32)
        numbers, scales = self.values.to(wide), self._spread(self.scales).to(wide)
        if self.zero_points is not None:
            numbers = numbers - self._spread(self.zero_points).to(wide)
        return (numbers * scales).to(dtype)

    def part(self, columns: slice) -> IntegerWeight:
        """Return some consecutive columns.

        If the columns begin or end inside a group, the result has smaller groups, and neighbouring groups can have the same
        scale.
        """
        begin, end, _ = columns.indices(self.shape[1])
        values = self.values[:, begin:end].contiguous()
        if self.columns is not None:
            return IntegerWeight(self.scheme, values, self.scales, self.zero_points, self.columns[begin:end])
        size = self.scheme.group_of(self.shape[1])
        if size >= self.shape[1]:  # a row has one scale
            return IntegerWeight(self._sized(None), values, self.scales, self.zero_points)
        step = size if begin % size == 0 and (end % size == 0 or end == self.shape[1]) else math.gcd(size, begin, end)
        of_steps = torch.arange(begin, end, step, dtype=torch.int64, device=values.device) // size
        zeros = None if self.zero_points is None else self.zero_points[:, of_steps]
        return IntegerWeight(self._sized(step), values, self.scales[:, of_steps], zeros)

    def for_kernels(self) -> Int8Weight | Int4Weight | None:
        """Convert the matrix to the format of labkit's kernels; return None if no kernel can read it (see `kernel_bits`)."""
        bits = kernel_bits(self.scheme, self.shape[1], self.scales)
        if bits is None or self.zero_points is not None or self.columns is not None:
            return None
        if bits == 8:
            return Int8Weight(self.values, self.scales[:, 0].float().contiguous())
        size, scales = self.scheme.group_of(self.shape[1]), self.scales.to(torch.float16)
        if self.scales.shape[1] == 1:  # repeat the one scale of each row, because the kernels read a scale per group
            size = _largest_group(self.shape[1])
            scales = scales.repeat(1, self.shape[1] // size)
        nibbles = (self.values + 8).to(torch.uint8)
        nibbles = torch.nn.functional.pad(nibbles, (0, -self.shape[1] % size), value=8)
        return Int4Weight(nibbles[:, 0::2] | nibbles[:, 1::2] << 4, scales.contiguous(), self.shape[1], size)

    def to(self, device: torch.device | str) -> IntegerWeight:
        """The same matrix on another device."""
        moved = (None if tensor is None else tensor.to(device) for tensor in (self.zero_points, self.columns))
        return IntegerWeight(self.scheme, self.values.to(device), self.scales.to(device), *moved)

    def _sized(self, group_size: int | None) -> IntegerScheme:
        return IntegerScheme(self.scheme.bits, group_size, self.scheme.symmetric)

    def _spread(self, of_groups: Tensor) -> Tensor:
        """Repeat the number of each group for every column of the group."""
        if self.columns is not None:
            return of_groups[:, self.columns]
        size = self.scheme.group_of(self.shape[1])
        return of_groups if size >= self.shape[1] else of_groups.repeat_interleave(size, 1)[:, : self.shape[1]]


def kernel_bits(scheme: IntegerScheme, in_features: int, scales: Tensor) -> int | None:
    """8 or 4 if labkit has kernels for rows of `in_features` numbers in this scheme with these scales, otherwise None.

    Kernels read int8 with a scale for each row, and int4 with a scale for each row or for groups whose size is a multiple of
    32. No kernel reads zero points. For int4, every scale must be exactly representable in float16.
    """
    one_scale = scheme.groups(in_features) == 1
    if scheme.symmetric and scheme.bits == 8 and one_scale:
        return 8
    of_32 = (in_features if one_scale else scheme.group_of(in_features)) % 32 == 0
    if scheme.symmetric and scheme.bits == 4 and of_32 and torch.equal(scales.half().double(), scales.double()):
        return 4
    return None


def stack(parts: Sequence[IntegerWeight]) -> IntegerWeight:
    """Join the rows of several matrices, which must have the same scheme and groups of neighbouring columns."""
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return IntegerWeight(
        parts[0].scheme,
        torch.cat([part.values for part in parts]),
        torch.cat([part.scales for part in parts]),
        torch.cat(zeros) if zeros else None,
    )


def _largest_group(in_features: int) -> int:
    """The largest group size that all int4 kernels read and that divides `in_features`, for a row with one scale."""
    return next(size for size in (256, 128, 64, 32) if in_features % size == 0)
