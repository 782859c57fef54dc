"""Formats whose products run in 8 bits: the inputs are rounded as well, with one scale for each row of inputs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.weight_formats.quantized_weight import RowScaledWeight

INT8_MAX, FP8_MAX = 127.0, 448.0
"""The largest magnitude that a row of inputs is mapped to: of int8, and of FP8 in e4m3."""


@dataclass(frozen=True)
class RoundedInputsWeight(RowScaledWeight):
    """A matrix for products in 8 bits: each row of x is rounded to 8 bits as well, while the model runs.

    (x weight^T)[t, o] = x_scales[t] * scales[o] * sum over i of x_values[t, i] * values[o, i].
    """

    @abstractmethod
    def round_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Round `x` `[tokens, in]`. Returns the rounded `x` in the type of `values`, and its scales `[tokens]` float32."""


def quantize_rows_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of `x` `[rows, columns]` to int8; the row's largest magnitude becomes 127.

    Returns values `[rows, columns]` int8 and scales `[rows]` float32, so that scales * values is close to x. The computation
    is in float32, and ties are rounded to even. A row of zeros gets the scale 0.
    """
    wide = x.float()
    # Multiply instead of dividing, because torch divides by constants differently on a CPU and on a GPU.
    scales = wide.abs().amax(1) * (1 / INT8_MAX)
    return (wide / _no_zeros(scales)[:, None]).round_().to(torch.int8), scales


def quantize_rows_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row of `x` to FP8 (e4m3), as `quantize_rows_int8` rounds to int8.

    The row's largest magnitude becomes 448, the largest number of the format.
    """
    wide = x.float()
    scales = wide.abs().amax(1) * (1 / FP8_MAX)
    return (wide / _no_zeros(scales)[:, None]).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn), scales


def _no_zeros(scales: Tensor) -> Tensor:
    """Scales that are safe to divide by: zeros are replaced by 1."""
    return torch.where(scales == 0, 1.0, scales)
