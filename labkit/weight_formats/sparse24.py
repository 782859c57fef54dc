"""2:4 sparse weights: two of every four neighbours in a row are stored with their places. Activations are not rounded."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.weight_formats.quantized_weight import CpuParts, QuantizedWeight


@dataclass(frozen=True)
class Sparse24Weight(QuantizedWeight):
    """A matrix in which two of every four neighbours of a row are stored. A 2-bit index for each stored value is the value's
    place among the four neighbours.

    `values` is `[out, padded_in / 2]` in 16 or 32 bits. `indices` is `[out, padded_in / 8]` uint8 and holds a nibble for each
    group of four. The low two bits of a nibble are the place of the first value, and the high two bits are the place of the
    second value, which is further to the right. Groups with an even number are in low nibbles. NVIDIA's sparse tensor cores use
    the same nibbles as metadata; in `indices`, the nibbles are in the order of the matrix. `padded_in` is `in_features` rounded
    up to a multiple of 8; the padding holds zeros.
    """

    kind: ClassVar[str] = "sparse24"
    head_kind: ClassVar[str] = "dense"

    values: Tensor
    indices: Tensor
    in_features: int

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Keep the two largest magnitudes of every four neighbours of a dense `[out, in]` matrix, in bfloat16."""
        fours = padded_fours(weight)
        return cls.of_places(fours, largest_places(fours), weight.shape[1], torch.bfloat16)

    @classmethod
    def compress(cls, weight: Tensor, dtype: torch.dtype) -> Self:
        """Store a dense `[out, in]` matrix that is already 2:4 sparse. The only change to its numbers is rounding to `dtype`.

        If a group of four has fewer than two nonzero numbers, zeros are stored, too. Raises `InvalidRequest` if a group has
        more than two nonzero numbers.
        """
        fours = padded_fours(weight)
        there = fours != 0
        if bool((there.sum(-1) > 2).any()):
            raise InvalidRequest("the matrix has more than two nonzero numbers in four neighbours; prune it to 2:4 first")
        return cls.of_places(fours, largest_places(there.to(torch.uint8)), weight.shape[1], dtype)

    @classmethod
    def of_places(cls, fours: Tensor, places: Tensor, in_features: int, dtype: torch.dtype) -> Self:
        """Make the matrix from `fours` `[out, padded_in / 4, 4]` and the two ascending places to keep in each group of four."""
        nibbles = (places[..., 0] | places[..., 1] << 2).to(torch.uint8)
        values = fours.gather(-1, places).flatten(1).to(dtype).contiguous()
        return cls(values, (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).contiguous(), in_features)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.values.shape[0], self.in_features

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""
        return self.values.nbytes + self.indices.nbytes

    @property
    def places(self) -> Tensor:
        """The places of the stored values within their groups of four, `[out, padded_in / 4, 2]` int64."""
        nibbles = torch.stack((self.indices & 15, self.indices >> 4), dim=-1).flatten(1)
        return torch.stack((nibbles & 3, nibbles >> 2), dim=-1).long()

    @property
    def cpu_parts(self) -> CpuParts:
        """The arguments for packing the matrix for the CPU: the values in bfloat16, and the indices."""
        values, indices = self.values.to(torch.bfloat16).contiguous(), self.indices.contiguous()
        return CpuParts(values, torch.bfloat16, values.shape, indices, torch.uint8, indices.shape)

    def part(self, columns: slice) -> Sparse24Weight:
        """Return a range of columns as a matrix. Raises `InvalidRequest` if the range begins or ends within a group of eight
        columns.
        """
        begin, end, _ = columns.indices(self.in_features)
        if begin % 8 or (end % 8 and end != self.in_features):
            raise InvalidRequest(
                f"columns {begin} to {end} of a 2:4 sparse matrix cannot be taken; ranks can divide its {self.in_features} "
                "inputs only at multiples of 8, so use another number of ranks, or dtype bf16"
            )
        values = self.values[:, begin // 2 : -(-end // 8) * 4].contiguous()
        return Sparse24Weight(values, self.indices[:, begin // 8 : -(-end // 8)].contiguous(), end - begin)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Sparse24Weight:
        """The same matrix on another device, with its values in `dtype`."""
        return Sparse24Weight(self.values.to(device, dtype), self.indices.to(device), self.in_features)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""
        places = self.places
        dense = torch.zeros(*places.shape[:2], 4, dtype=self.values.dtype, device=self.values.device)
        dense.scatter_(-1, places, self.values.view(places.shape))
        return dense.flatten(1)[:, : self.in_features].to(dtype)

    @functools.cached_property
    def semi_structured(self) -> Any:
        """The matrix as torch's tensor for sparse tensor cores (cuSPARSELt or CUTLASS). It is made once, and only on a GPU.

        torch accepts only shapes that are multiples of its tiles, and raises `RuntimeError` for other shapes.
        """
        return torch.sparse.to_sparse_semi_structured(self.dequantize(self.values.dtype))


def padded_fours(weight: Tensor) -> Tensor:
    """Return the matrix `weight` `[out, in]`, padded with zeros, as groups of four neighbours `[out, padded_in / 4, 4]`."""
    return F.pad(weight, (0, -weight.shape[1] % 8)).view(weight.shape[0], -1, 4)


def largest_places(fours: Tensor) -> Tensor:
    """Return the places of the two largest magnitudes of each group of four, in ascending order, as `[..., 2]` int64."""
    return torch.argsort(fours.abs(), dim=-1, descending=True, stable=True)[..., :2].sort(dim=-1).values


def stack_rows(parts: list[Sparse24Weight]) -> Sparse24Weight:
    """Stack the rows of several matrices into one matrix."""
    values, indices = torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
    return Sparse24Weight(values, indices, parts[0].in_features)
