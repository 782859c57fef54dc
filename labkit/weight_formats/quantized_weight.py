"""The base class of all formats of quantized and sparse matrices. Each format is a subclass in its own file.

A format's kernels are found by the format's name `kind`. Kernels for a GPU are in `labkit.ops.kernels.linear_kind_<kind>`.
Kernels for the CPU are in the native library, which gets `cpu_parts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class CpuParts:
    """The arguments with which the native library packs a matrix: the stored numbers and their scales.

    `group_size` is 0 if a scale belongs to a whole row. `input_scale` is the fixed scale of the inputs; 0 means that the kernel
    finds the scale of each row of inputs itself, if the format rounds inputs at all.
    """

    values: Tensor
    dtype: torch.dtype
    shape: tuple[int, ...]
    scales: Tensor | None = None
    scales_dtype: torch.dtype = torch.float32
    scales_shape: tuple[int, ...] = ()
    group_size: int = 0
    input_scale: float = 0.0


class QuantizedWeight(ABC):
    """An `[out, in]` matrix in a quantized or sparse format.

    `kind` is the name of the format. If a model's matrices have this format, the model's precision has the same name.
    `head_kind` is the format of such a model's head; "dense" means the compute dtype. `group_size` is the number of neighbours
    that share a scale; 0 means the whole row.
    """

    kind: ClassVar[str]
    head_kind: ClassVar[str]
    group_size: int = 0

    @classmethod
    @abstractmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Round a dense `[out, in]` matrix to nearest."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    @abstractmethod
    def byte_count(self) -> int:
        """Bytes that one use of the matrix reads."""

    @property
    @abstractmethod
    def cpu_parts(self) -> CpuParts:
        """The arguments for packing the matrix for the CPU's kernels.

        Raises `InvalidRequest` if the kernels cannot read the matrix.
        """

    @abstractmethod
    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""


@dataclass(frozen=True)
class RowScaledWeight(QuantizedWeight):
    """A matrix in 8 bits with one scale per output row: weight[o, i] = scales[o] * values[o, i].

    `values` is `[out, in]` in an 8-bit type; `scales` is `[out]` float32.
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

    @property
    def cpu_parts(self) -> CpuParts:
        """The stored int8 numbers and their scales."""
        scales = self.scales.float().contiguous()
        return CpuParts(self.values.contiguous(), torch.int8, self.shape, scales, scales_shape=self.shape[:1])

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix with the stored values."""
        return (self.values.float() * self.scales[:, None]).to(dtype)
