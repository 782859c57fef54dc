"""2:4 sparse int8 weights with a scale for each output row. The format does not round activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from labkit.weight_formats.int8 import Int8Weight
from labkit.weight_formats.quantized_weight import CpuParts, QuantizedWeight
from labkit.weight_formats.sparse24 import Sparse24Weight, largest_places, padded_fours
from labkit.weight_formats.sparse24 import stack_rows as stack_integers


@dataclass(frozen=True)
class Sparse24Int8Weight(QuantizedWeight):
    """weight[o, i] = scales[o] * integers[o, i], where two of every four neighbouring integers of a row are stored.

    `integers` is a 2:4 sparse matrix whose values are int8, -127 to 127; `scales` `[out]` float32. The native CPU
    kernels round each 128 inputs of a token to int8, with one scale. Other kernels do not round the inputs.
    """

    kind: ClassVar[str] = "sparse24_int8"
    head_kind: ClassVar[str] = "int8"

    integers: Sparse24Weight
    scales: Tensor

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Keep the two largest magnitudes of every four neighbours of a dense `[out, in]` matrix, rounded to nearest.

        The largest magnitude of each row becomes 127.
        """
        rounded = Int8Weight.quantize(weight)
        places = largest_places(padded_fours(weight))
        integers = Sparse24Weight.of_places(padded_fours(rounded.values), places, weight.shape[1], torch.int8)
        return cls(integers, rounded.scales)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.integers.shape

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""
        return self.integers.byte_count + 4 * self.scales.numel()

    @property
    def cpu_parts(self) -> CpuParts:
        """The stored integers, and the bytes of the scales followed by those of the indices."""
        values, scales = self.integers.values.contiguous(), self.scales.float().contiguous()
        both = torch.cat((scales.view(torch.uint8), self.integers.indices.flatten()))
        return CpuParts(values, torch.int8, values.shape, both, torch.uint8, both.shape)

    @property
    def with_zeros(self) -> Int8Weight:
        """The same matrix with its zeros filled in, for devices without kernels for this format."""
        return Int8Weight(self.integers.dequantize(torch.int8), self.scales.float())

    def part(self, columns: slice) -> Sparse24Int8Weight:
        """A part of consecutive columns. Raises `InvalidRequest` as `Sparse24Weight.part` does."""
        return Sparse24Int8Weight(self.integers.part(columns), self.scales)

    def to(self, device: torch.device | str) -> Sparse24Int8Weight:
        """The same matrix on another device."""
        return Sparse24Int8Weight(self.integers.to(device), self.scales.to(device))

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""
        return self.with_zeros.dequantize(dtype)


def stack_rows(parts: Sequence[Sparse24Int8Weight]) -> Sparse24Int8Weight:
    """Stack the rows of several matrices into one matrix."""
    integers = stack_integers([part.integers for part in parts])
    return Sparse24Int8Weight(integers, torch.cat([part.scales for part in parts]))
