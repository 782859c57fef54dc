"""Quantized weights: how a matrix is rounded to int8, int4 or FP8 and stored. Rounding is to nearest and needs no data.

Better rounding methods (calibrated, trained) can store their results in the same formats; kernels read no other formats. Two
formats, `Int8DynamicWeight` and `Fp8Weight`, round the activations as well, so the product itself runs in 8 bits. The formats
that round activations are faster where many tokens share a weight (prefill, large batches). The other formats are faster where
most of the time is spent reading weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.errors import InvalidRequest

GROUP_SIZE = 32
"""The default number of weights that share a scale in int4."""
INT4_LARGEST = (8.0, 7.0, 7.25, 7.5, 7.75, 8.25, 8.5, 8.75, 9.0)
"""Candidates for the value, in int4 steps, to which a scale maps the largest magnitude of its group.

Each group gets the candidate with the smallest error. Candidate 7 clips nothing. Candidate 8 is the rule of llama.cpp's Q4_0.
It clips numbers of the opposite sign by up to a step. A candidate above 8 also clips the largest number of a group. Larger
candidates make the steps finer. This list of candidates lowers the squared error by 10 %; a finer and wider list lowers it by
only 1 % more.
"""
FP8_MAX = 448.0
"""The largest number of e4m3."""


@dataclass(frozen=True)
class RowScaledWeight:
    """A matrix in 8 bits with one scale per output row: weight[o, i] = scales[o] * values[o, i].

    `values` `[out, in]` in an 8-bit type; `scales` `[out]` float32.
    """

    values: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""
        return self.values.numel() + 4 * self.scales.numel()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""
        return (self.values.float() * self.scales[:, None]).to(dtype)


class Int8Weight(RowScaledWeight):
    """`values` are int8, -127 to 127; activations are not rounded."""

    @classmethod
    def quantize(cls, weight: Tensor) -> Int8Weight:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 127."""
        wide = weight.float()
        scales = wide.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * 127) / 127
        return cls((wide / scales[:, None]).round_().to(torch.int8), scales)


@dataclass(frozen=True)
class Int4Weight:
    """A matrix in int4 with one scale per group of `group_size` neighbours in a row (symmetric, -8 to 7).

    weight[o, i] = scales[o, i // group_size] * (nibble[o, i] - 8). `packed` `[out, padded_in / 2]` uint8 holds two neighbours
    per byte; the neighbour with the even index is in the low nibble. `scales` is `[out, padded_in / group_size]` float16.
    `padded_in` is `in_features` rounded up to whole groups. The padding holds nibbles of 8, which stand for 0.
    """

    packed: Tensor
    scales: Tensor
    in_features: int
    group_size: int = GROUP_SIZE

    @classmethod
    def quantize(cls, weight: Tensor, group_size: int = GROUP_SIZE) -> Int4Weight:
        """Round a dense `[out, in]` matrix to nearest. Each group gets the best of a few candidates for its scale.

        Raises `InvalidRequest` for a group size that is odd or below 2.
        """
        if group_size < 2 or group_size % 2:
            raise InvalidRequest(f"int4 group_size is {group_size!r}; an even number of at least 2 is accepted")
        out_features, in_features = weight.shape
        padding = -in_features % group_size
        padded = in_features + padding
        packed = torch.empty(out_features, padded // 2, dtype=torch.uint8, device=weight.device)
        scales = torch.empty(out_features, padded // group_size, dtype=torch.float16, device=weight.device)
        chunk = 1 << 18 if weight.device.type == "cpu" else 1 << 24  # fits into a CPU's cache; needs few launches on a GPU
        rows = max(chunk // max(padded, 1), 1)
        for first in range(0, out_features, rows):
            wide = F.pad(weight[first : first + rows].float(), (0, padding))
            groups = wide.reshape(-1, group_size).t().contiguous()
            found = _int4_scales(groups)
            nibbles = ((groups / found.float()).round_() + 8).clamp_(0, 15).to(torch.uint8)
            packed[first : first + rows] = (nibbles[0::2] | nibbles[1::2] << 4).t().reshape(len(wide), -1)
            scales[first : first + rows] = found.view(len(wide), -1)
        return cls(packed, scales, in_features, group_size)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.packed.shape[0], self.in_features

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""
        return self.packed.numel() + 2 * self.scales.numel()

    @property
    def nibbles(self) -> Tensor:
        """The stored numbers, unpacked: `[out, padded_in]` uint8, 0 to 15."""
        return torch.stack((self.packed & 15, self.packed >> 4), dim=-1).flatten(1)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""
        groups = (self.nibbles.float() - 8).view(*self.scales.shape, self.group_size) * self.scales.float()[:, :, None]
        return groups.flatten(1)[:, : self.in_features].to(dtype)


def _int4_scales(groups: Tensor) -> Tensor:
    """The scales of the columns of `groups` `[group_size, groups]` float32, as `[groups]` float16. A column of zeros gets 1.

    Each candidate scale maps the number of largest magnitude to the negative of a value in `INT4_LARGEST`, and is rounded to
    float16. The scale with the least squared error is chosen; if several scales have the same error, the first of them is
    chosen. The first candidate is 8, so the error is never larger than with llama.cpp's rule, which always uses 8.
    """
    high, low = groups.amax(0), groups.amin(0)
    largest = torch.where(high > -low, high, low)
    best = torch.ones_like(largest, dtype=torch.float16)
    least = torch.full_like(largest, torch.inf)
    for steps in INT4_LARGEST:
        scales = (largest / -steps).to(torch.float16)
        scales[scales == 0] = 1.0
        wide = scales.float()
        exact = groups / wide
        error = (exact.round().clamp_(-8, 7) - exact).square_().sum(0) * wide.square()
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return best


def quantize_rows_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of `x` `[rows, columns]` to int8; the row's largest magnitude becomes 127.

    Returns values `[rows, columns]` int8 and scales `[rows]` float32, so that scales * values is close to x. The computation
    is in float32, and ties are rounded to even. A row of zeros gets the scale 0.
    """
    wide = x.float()
    # Multiply instead of dividing, because torch divides by constants differently on a CPU and on a GPU.
    scales = wide.abs().amax(1) * (1 / 127)
    return (wide / _no_zeros(scales)[:, None]).round_().to(torch.int8), scales


def quantize_rows_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of `x` to FP8 (e4m3), as `quantize_rows_int8` rounds to int8.

    The row's largest magnitude becomes 448, the largest number of the format.
    """
    wide = x.float()
    scales = wide.abs().amax(1) * (1 / FP8_MAX)
    return (wide / _no_zeros(scales)[:, None]).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scales


def _no_zeros(scales: Tensor) -> Tensor:
    """Scales that are safe to divide by: zeros are replaced by 1."""
    return torch.where(scales == 0, 1.0, scales)


class DynamicWeight(RowScaledWeight, ABC):
    """A matrix for products in 8 bits. Each row of x is rounded to 8 bits as well, during the run ("dynamic").

    (x weight^T)[t, o] = x_scales[t] * scales[o] * sum over i of x_values[t, i] * values[o, i].
    """

    @abstractmethod
    def round_activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round `x` `[tokens, in]`. Returns the rounded `x` in the type of `values`, and its scales `[tokens]` float32."""


class Int8DynamicWeight(DynamicWeight):
    """W8A8: `values` are int8 as in `Int8Weight`, and activations are int8 as well.

    This is a class and not a flag of `Int8Weight`, so that a kernel for `Int8Weight` cannot be used for this class by mistake.
    """

    @classmethod
    def quantize(cls, weight: Tensor) -> Int8DynamicWeight:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 127."""
        return cls(*quantize_rows_int8(weight))

    def round_activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`quantize_rows_int8`."""
        return quantize_rows_int8(x)


class Fp8Weight(DynamicWeight):
    """Weights and activations in FP8 (e4m3: 4 bits of exponent, 3 of mantissa, up to 448; Micikevicius et al. 2022).

    `values` `[out, in]` float8_e4m3fn.
    """

    @classmethod
    def quantize(cls, weight: Tensor) -> Fp8Weight:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 448."""
        return cls(*quantize_rows_fp8(weight))

    def round_activations(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`quantize_rows_fp8`."""
        return quantize_rows_fp8(x)


QuantizedWeight = Int8Weight | Int4Weight | Int8DynamicWeight | Fp8Weight
"""Every quantized format."""
