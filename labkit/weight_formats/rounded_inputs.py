"""Formats whose matrix products run in 8 bits.

The inputs are rounded, too: each row of the inputs has its own scale, or all rows share one scale.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.weight_formats.quantized_weight import CpuParts, RowScaledWeight

INT8_MAX = 127.0
"""The largest magnitude to which inputs are mapped in int8."""
SMALLEST = 1e-30
"""If the largest magnitude of a row is below this number, this number is used instead, so that nothing is divided by zero."""


@dataclass(frozen=True)
class Fp8Form:
    """An 8-bit floating-point format, and its largest number."""

    dtype: torch.dtype
    largest: float


E4M3, E5M2 = Fp8Form(torch.float8_e4m3fn, 448.0), Fp8Form(torch.float8_e5m2, 57344.0)
"""E4M3 has 4 exponent bits and 3 mantissa bits; E5M2 has 5 exponent bits and 2 mantissa bits (Micikevicius et al. 2022,
https://arxiv.org/abs/2209.05433).
"""
FP8_MAX = E4M3.largest


@dataclass(frozen=True)
class RoundedInputsWeight(RowScaledWeight):
    """A matrix for matrix products in 8 bits. The input x is rounded to 8 bits, too, while the model runs.

    (x weight^T)[t, o] = x_scales[t] * scales[o] * sum over i of x_values[t, i] * values[o, i].

    `input_scale` is the scale of all inputs ("static", found by calibration). If `input_scale` is None, each row of x gets its
    own scale, computed from the row's largest magnitude ("dynamic").
    """

    input_scale: float | None = None

    @property
    def cpu_parts(self) -> CpuParts:
        """The stored numbers and scales, and the scale of the inputs."""
        return dataclasses.replace(super().cpu_parts, input_scale=self.input_scale or 0.0)

    @abstractmethod
    def round_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round `x` `[tokens, in]`. Returns the rounded `x` in the type of `values`, and its scales `[tokens]` float32."""


def quantize_rows_int8(x: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Round `x` `[rows, columns]` to int8, -127 to 127.

    Returns values `[rows, columns]` int8 and scales `[rows]` float32, so that scales * values is close to x. If `scale` is
    given, all rows have this scale, and numbers that are too large become 127. Otherwise the largest magnitude of each row
    becomes 127, and a row of zeros has the scale 0. The computation is in float32, and ties are rounded to even.
    """
    scaled, scales = _scaled(x, scale, INT8_MAX)
    return scaled.round_().to(torch.int8), scales


def quantize_rows_fp8(x: Tensor, scale: float | None = None, form: Fp8Form = E4M3) -> tuple[Tensor, Tensor]:
    """Round `x` to FP8 in the same way as `quantize_rows_int8`. The format's largest number takes the place of 127."""
    scaled, scales = _scaled(x, scale, form.largest)
    return scaled.to(form.dtype), scales


def _scaled(x: Tensor, scale: float | None, most: float) -> tuple[Tensor, Tensor]:
    """Return `x` divided by its scales, and the scales. The kernels do the same float32 operations in the same order.

    A row with NaN has the scale NaN, because int8 cannot hold NaN. A given scale also becomes NaN if the row has an infinity.
    """
    wide = x.float()
    if scale is not None:
        scales = torch.full((len(x),), scale, dtype=torch.float32, device=x.device)
        inverse = torch.ones_like(scales) / scales
        scales = torch.where(wide.isfinite().all(1), scales, torch.nan)
    else:
        largest = wide.abs().amax(1)
        # Multiply instead of dividing, because torch divides by constants differently on a CPU and on a GPU.
        scales = largest * (1 / most)
        inverse = torch.full_like(largest, most) / largest.clamp_min(SMALLEST)
    return (wide * inverse[:, None]).clamp_(-most, most), scales
