"""FP8: weights and activations in e4m3."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import torch
from torch import Tensor

from labkit.weight_formats.quantized_weight import CpuParts
from labkit.weight_formats.rounded_inputs import RoundedInputsWeight, quantize_rows_fp8


class Fp8Weight(RoundedInputsWeight):
    """A matrix whose weights and activations are in FP8.

    The form of FP8 is e4m3: a number has 4 bits of exponent and 3 bits of mantissa, and is at most 448 (Micikevicius et al.
    2022). `values` is `[out, in]` float8_e4m3fn.
    """

    kind: ClassVar[str] = "fp8"
    head_kind: ClassVar[str] = "fp8"

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 448."""
        return cls(*quantize_rows_fp8(weight))

    @property
    def cpu_parts(self) -> CpuParts:
        """The stored numbers in bfloat16, because CPUs cannot multiply FP8 numbers. The conversion is exact."""
        values = self.values.to(torch.bfloat16).contiguous()
        return dataclasses.replace(super().cpu_parts, values=values, dtype=torch.bfloat16)

    def round_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round `x` with `quantize_rows_fp8`, which uses `input_scale` if there is one."""
        return quantize_rows_fp8(x, self.input_scale)
