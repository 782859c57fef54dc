"""W8A8: weights and activations in int8."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from labkit.weight_formats.rounded_inputs import RoundedInputsWeight, quantize_rows_int8


class W8A8Weight(RoundedInputsWeight):
    """A matrix in int8 as in `Int8Weight`; the activations are rounded to int8, too.

    This is a class and not a flag of `Int8Weight`, so that a kernel for `Int8Weight` cannot be used for this class by mistake.
    """

    kind: ClassVar[str] = "w8a8"
    head_kind: ClassVar[str] = "int8"

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 127."""
        return cls(*quantize_rows_int8(weight))

    def round_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round `x` with `quantize_rows_int8`, which uses `input_scale` if there is one."""
        return quantize_rows_int8(x, self.input_scale)
