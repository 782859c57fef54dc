"""Weights in fewer bits: how a matrix is rounded to int8 or int4 and stored. Rounds to nearest, needs no data.

Better roundings (calibrated, trained) fill the same formats; kernels read these and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.errors import InvalidRequest

GROUP_SIZE = 32
"""Weights that share a scale in int4, unless told otherwise."""


@dataclass(frozen=True)
class Int8Weight:
    """A matrix in int8 with one scale an output row: weight[o, i] = scales[o] * values[o, i].

    `values` `[out, in]` int8 in -127 to 127; `scales` `[out]` float32.
    """

    values: Tensor
    scales: Tensor

    @classmethod
    def quantize(cls, weight: Tensor) -> Int8Weight:
        """Round a dense `[out, in]` matrix to nearest, the largest magnitude of each row at 127."""
        wide = weight.float()
        scales = wide.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * 127) / 127
        return cls((wide / scales[:, None]).round_().to(torch.int8), scales)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""
        return self.values.numel() + 4 * self.scales.numel()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix that the stored one stands for."""
        return (self.values.float() * self.scales[:, None]).to(dtype)


@dataclass(frozen=True)
class Int4Weight:
    """A matrix in int4 with one scale for every `group_size` neighbours of a row (symmetric, -8 to 7).

    weight[o, i] = scales[o, i // group_size] * (nibble[o, i] - 8). `packed` `[out, padded_in / 2]` uint8 holds the
    nibbles of two neighbours, the even one low; `scales` `[out, padded_in / group_size]` float16. `padded_in` is
    `in_features` rounded up to a whole group; the padding holds 8, which is zero.
    """

    packed: Tensor
    scales: Tensor
    in_features: int
    group_size: int = GROUP_SIZE

    @classmethod
    def quantize(cls, weight: Tensor, group_size: int = GROUP_SIZE) -> Int4Weight:
        """Round a dense `[out, in]` matrix to nearest; of the two signs of the scale, the largest magnitude takes -8."""
        if group_size < 2 or group_size % 2:
            raise InvalidRequest(f"int4 group_size is {group_size!r}; an even number of at least 2 is accepted")
        out_features, in_features = weight.shape
        wide = F.pad(weight.float(), (0, -in_features % group_size)).view(out_features, -1, group_size)
        largest = wide.gather(2, wide.abs().argmax(2, keepdim=True)).squeeze(2)
        scales = (largest / -8).to(torch.float16)
        scales[scales == 0] = 1.0
        nibbles = ((wide / scales.float()[:, :, None]).round_() + 8).clamp_(0, 15).to(torch.uint8).flatten(1)
        return cls(nibbles[:, 0::2] | nibbles[:, 1::2] << 4, scales, in_features, group_size)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.packed.shape[0], self.in_features

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""
        return self.packed.numel() + 2 * self.scales.numel()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix that the stored one stands for."""
        nibbles = torch.stack((self.packed & 15, self.packed >> 4), dim=-1).flatten(1).float() - 8
        groups = nibbles.view(*self.scales.shape, self.group_size) * self.scales.float()[:, :, None]
        return groups.flatten(1)[:, : self.in_features].to(dtype)


QuantizedWeight = Int8Weight | Int4Weight
"""The formats in fewer bits."""
