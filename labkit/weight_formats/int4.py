"""int4 weights, with one float16 scale for each group of neighbours in a row. The format does not round activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.weight_formats.quantized_weight import CpuParts, QuantizedWeight

GROUP_SIZE = 32
"""The default number of weights that share a scale in int4."""
INT4_LARGEST = (8.0, 7.0, 7.25, 7.5, 7.75, 8.25, 8.5, 8.75, 9.0)
"""Candidates for the largest magnitude of a group, counted in steps of int4. Each candidate determines a scale.

Each group gets the candidate with the smallest error. Candidate 7 clips nothing. Candidate 8 is the rule of llama.cpp's Q4_0.
Candidate 8 clips numbers whose sign is opposite to the sign of the largest number, by up to a step. A candidate above 8 also
clips the largest number of a group. The larger the candidate, the finer the steps. The choice among these candidates lowers the
squared error by 10 %; a finer and wider list of candidates lowers it by only 1 % more.
"""


@dataclass(frozen=True)
class Int4Weight(QuantizedWeight):
    """A matrix in int4 with one scale per group of `group_size` neighbours in a row (symmetric, -8 to 7).

    weight[o, i] = scales[o, i // group_size] * (nibble[o, i] - 8). `packed` is `[out, padded_in / 2]` uint8. It holds two
    neighbours per byte; the neighbour with the even index is in the low nibble. `scales` is `[out, padded_in / group_size]`
    float16. `padded_in` is `in_features` rounded up to whole groups. The padding holds nibbles of 8, which stand for 0.

    The native CPU kernels round each 32 inputs of a token to int8, with one scale. Other kernels do not round the inputs.
    """

    kind: ClassVar[str] = "int4"
    head_kind: ClassVar[str] = "int8"

    packed: Tensor
    scales: Tensor
    in_features: int
    group_size: int = GROUP_SIZE

    @classmethod
    def quantize(cls, weight: Tensor, group_size: int = GROUP_SIZE) -> Self:
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
        # numbers in a chunk: few enough for a CPU's cache; enough that a GPU needs few kernel launches
        chunk = 1 << 18 if weight.device.type == "cpu" else 1 << 24
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
        """The number of bytes that one use of the matrix reads."""
        return self.packed.numel() + 2 * self.scales.numel()

    @property
    def nibbles(self) -> Tensor:
        """The stored numbers after unpacking: `[out, padded_in]` uint8, 0 to 15."""
        return torch.stack((self.packed & 15, self.packed >> 4), dim=-1).flatten(1)

    @property
    def cpu_parts(self) -> CpuParts:
        """The arguments for packing the matrix for the CPU.

        Raises `InvalidRequest` unless the group size is a multiple of 32.
        """
        size, (rows, columns) = self.group_size, self.shape
        if size % 32:
            raise InvalidRequest(f"int4 weights with groups of {size} cannot be packed; multiples of 32 are accepted")
        groups = -(-columns // size)
        return CpuParts(
            self.packed.contiguous(),
            torch.uint8,
            (rows, groups * size // 2),
            self.scales.contiguous(),
            torch.float16,
            (rows, groups),
            size,
        )

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""
        groups = (self.nibbles.float() - 8).view(*self.scales.shape, self.group_size) * self.scales.float()[:, :, None]
        return groups.flatten(1)[:, : self.in_features].to(dtype)


def _int4_scales(groups: Tensor) -> Tensor:
    """Return the scales of the columns of `groups` `[group_size, groups]` float32, as `[groups]` float16. A column of zeros
    gets the scale 1.

    Each candidate scale maps the number with the largest magnitude to -c for a candidate c in `INT4_LARGEST`, and is rounded to
    float16. The scale with the smallest squared error is chosen. If several scales have the same error, the first one is
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
