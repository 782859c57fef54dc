"""A matrix in the format "int-quantized" or "float-quantized" of compressed-tensors, which store one byte per number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from labkit.checkpoints.eight_bit_scheme import EightBitScheme
from labkit.checkpoints.stored_matrix import StoredMatrix
from labkit.checkpoints.weight_files import WeightFiles
from labkit.errors import CheckpointError
from labkit.weight_formats import Fp8E5M2Weight, Fp8Weight, Int8Weight, RoundedInputsWeight, RowScaledWeight, W8A8Weight

NUMBERS = {"int": (torch.int8,), "float": (torch.float8_e4m3fn, torch.float8_e5m2)}
"""The dtypes that the stored numbers can have, for each `type` that the settings can name."""


class EightBitMatrix(StoredMatrix):
    """A matrix of int8 or float8 numbers with scales.

    It is stored as the tensors `weight` `[out, in]`, `weight_scale` `[out, 1]` or `[1]`, and, if inputs are rounded with one
    stored scale, `input_scale` `[1]`.

    value[o, i] = weight_scale[o] * weight[o, i].
    """

    parts = ("weight", "weight_scale", "input_scale")
    optional = ("input_scale",)
    scheme: EightBitScheme

    def __init__(self, folder: Path, weights: WeightFiles, module: str, shape: tuple[int, int], scheme: EightBitScheme) -> None:
        super().__init__(folder, weights, module, shape)
        self.scheme = scheme
        if self.shape_of("weight") != shape or self.dtype_of("weight") not in NUMBERS[scheme.number]:
            raise self.refuse("weight", f"{' or '.join(map(_short, NUMBERS[scheme.number]))} of shape {list(shape)}")
        fitting = [(shape[0], 1), (shape[0],)] if scheme.per_row else [(1,), ()]
        if self.shape_of("weight_scale") not in fitting or not self.dtype_of("weight_scale").is_floating_point:
            raise self.refuse("weight_scale", f"floating point of shape {list(fitting[0])}")
        if scheme.inputs == "tensor" and not self.has("input_scale"):
            raise CheckpointError(f"{folder} lacks {self.name('input_scale')}, but config.json says that inputs are static")
        if self.has("input_scale") and self.shape_of("input_scale") not in [(1,), ()]:
            raise self.refuse("input_scale", "one number")

    @property
    def input_scale(self) -> float | None:
        """The stored scale of the inputs; None if no scale is stored. Raises `CheckpointError` if the scale is not above 0."""
        if self.scheme.inputs != "tensor":
            return None
        scale = float(self.load("input_scale"))
        if not scale > 0:
            raise CheckpointError(f"{self.folder}: {self.name('input_scale')} is {scale}; a number above 0 is needed")
        return scale

    def kernel_kind(self) -> str | None:
        """The kind of weight that `integers` returns; None for FP8 weights whose inputs are not rounded."""
        return None if self.scheme.number == "float" and self.scheme.inputs is None else self._form.kind

    def integers(self, rows: slice) -> RowScaledWeight:
        """Read some consecutive rows of the matrix, in the format that the kernels read."""
        name = self.name("weight")
        values = self._files[name].load(name, rows)
        if values.is_floating_point() and not bool(values.float().isfinite().all()):
            raise CheckpointError(f"{self.folder}: {name} holds values that are NaN or infinite")
        scales = self.load("weight_scale").float().reshape(-1)
        scales = scales[rows].contiguous() if self.scheme.per_row else scales.repeat(len(values))
        if issubclass(self._form, RoundedInputsWeight):
            return self._form(values, scales, self.input_scale)
        return self._form(values, scales)

    @property
    def _form(self) -> type[RowScaledWeight]:
        if self.scheme.number == "float":
            return Fp8Weight if self.dtype_of("weight") == torch.float8_e4m3fn else Fp8E5M2Weight
        return Int8Weight if self.scheme.inputs is None else W8A8Weight


def join_rows(parts: Sequence[RowScaledWeight]) -> RowScaledWeight | None:
    """Join the rows of several matrices into one matrix; return None if the matrices have different input scales."""
    first = parts[0]
    values, scales = torch.cat([part.values for part in parts]), torch.cat([part.scales for part in parts])
    if not isinstance(first, RoundedInputsWeight):
        return type(first)(values, scales)
    if {part.input_scale for part in parts if isinstance(part, RoundedInputsWeight)} != {first.input_scale}:
        return None
    return type(first)(values, scales, first.input_scale)


def part_of(weight: RowScaledWeight, columns: slice, device: torch.device | str = "cpu") -> RowScaledWeight:
    """Copy some columns of a matrix to a device. The scales of the rows and of the inputs stay the same."""
    values, scales = weight.values[:, columns].contiguous().to(device), weight.scales.to(device)
    if isinstance(weight, RoundedInputsWeight):
        return type(weight)(values, scales, weight.input_scale)
    return type(weight)(values, scales)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
