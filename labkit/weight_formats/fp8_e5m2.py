"""The form e5m2 of FP8: it has a wider range than e4m3, but one bit less of precision. Training uses it for gradients."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from labkit.weight_formats.fp8 import Fp8Weight
from labkit.weight_formats.rounded_inputs import E5M2, quantize_rows_fp8


class Fp8E5M2Weight(Fp8Weight):
    """A matrix whose weights and activations are in e5m2, a form of FP8.

    A number has 5 bits of exponent and 2 bits of mantissa, and is at most 57344 (Micikevicius et al. 2022). `values` is
    `[out, in]` float8_e5m2.
    """

    kind: ClassVar[str] = "fp8_e5m2"
    head_kind: ClassVar[str] = "fp8_e5m2"

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 57344."""
        return cls(*quantize_rows_fp8(weight, form=E5M2))

    def round_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round `x` to e5m2 with `quantize_rows_fp8`, which uses `input_scale` if there is one."""
        return quantize_rows_fp8(x, self.input_scale, E5M2)
