"""Chooses and runs the kernels for W8A8 on a GPU. Weights and activations are in int8."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_cublas import int8_cublas, int8_cublas_fits
from labkit.ops.kernels.linear_rounded_inputs import RoundedInputsKind
from labkit.weight_formats import RoundedInputsWeight, W8A8Weight


class W8A8Kind(RoundedInputsKind):
    """The kind of `W8A8Weight`."""

    name, head_name = W8A8Weight.kind, W8A8Weight.head_kind

    def quantize(self, dense: Tensor) -> W8A8Weight:
        """Call `W8A8Weight.quantize`."""
        return W8A8Weight.quantize(dense)

    def cublas_fits(self, rows: int, num_in: int, num_out: int) -> bool:
        """Call `int8_cublas_fits`."""
        return int8_cublas_fits(rows, num_in, num_out)

    def cublas(
        self, x: Tensor, x_scales: Tensor, weight: RoundedInputsWeight, bias: Tensor | None, dtype: torch.dtype, *, gelu: bool
    ) -> Tensor:
        """Call `int8_cublas`."""
        return int8_cublas(x, x_scales, weight.values, weight.scales, bias, dtype, gelu=gelu)


KIND = W8A8Kind()
