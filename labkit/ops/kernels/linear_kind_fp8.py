"""Chooses and runs the kernels for FP8 on a GPU. Weights and activations are in e4m3."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.errors import NotAvailable
from labkit.ops.kernels.linear_cublas import fp8_cublas, fp8_cublas_fits
from labkit.ops.kernels.linear_rounded_inputs import RoundedInputsKind
from labkit.weight_formats import Fp8Weight, RoundedInputsWeight

FP8_ARCH = 89
"""The first compute capability whose tensor cores multiply FP8."""


class Fp8Kind(RoundedInputsKind):
    """The kind of `Fp8Weight`."""

    name, head_name = Fp8Weight.kind, Fp8Weight.head_kind

    def quantize(self, dense: Tensor) -> Fp8Weight:
        """Call `Fp8Weight.quantize`."""
        return Fp8Weight.quantize(dense)

    def check(self, arch: int) -> None:
        """Raise `NotAvailable` for a GPU whose tensor cores do not multiply FP8."""
        if arch < FP8_ARCH:
            raise NotAvailable(
                f"a weight is in FP8, which needs a GPU of compute capability 8.9 or above; this one has {arch / 10}: "
                "quantize to int8 or int4 instead"
            )

    def cublas_fits(self, rows: int, num_in: int, num_out: int) -> bool:
        """Call `fp8_cublas_fits`."""
        return fp8_cublas_fits(num_in, num_out)

    def cublas(
        self, x: Tensor, x_scales: Tensor, weight: RoundedInputsWeight, bias: Tensor | None, dtype: torch.dtype, *, gelu: bool
    ) -> Tensor:
        """Call `fp8_cublas`."""
        return fp8_cublas(x, x_scales, weight.values, weight.scales, bias, dtype, gelu=gelu)


KIND = Fp8Kind()
