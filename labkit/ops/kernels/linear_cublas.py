"""Computes linear layers of many rows with torch's matrix multiplication (cuBLAS on a GPU).

A quantized weight is dequantized before the multiplication, or the result is scaled after it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.ops.gelu import gelu as gelu_reference
from labkit.ops.kernels.linear_dequantize import dequantize_triton
from labkit.ops.kernels.linear_epilogue import epilogue_triton
from labkit.weight_formats import Int4Weight, Int8Weight


def dense_cublas(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """Return `[rows, out]` for `x` `[rows, in]` and dense `weight` `[out, in]`. On a GPU, cuBLAS also applies bias and GELU."""
    if gelu and bias is not None and x.is_cuda:
        # `use_gelu` means the tanh form of GELU, but only on a GPU.
        return torch._addmm_activation(bias, x, weight.t(), use_gelu=True)
    result = F.linear(x, weight, bias)
    return gelu_reference(result) if gelu else result


def dequantized_cublas(x: Tensor, weight: Int8Weight | Int4Weight, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """Do the same as `dense_cublas` for a quantized weight, which is first dequantized to a temporary dense matrix."""
    return dense_cublas(x, dequantize_triton(weight, x.dtype), bias, gelu=gelu)


def int8_cublas_fits(rows: int, num_in: int, num_out: int) -> bool:
    """Whether `torch._int_mm` accepts these sizes on a GPU."""
    return rows > 16 and num_in % 8 == 0 and num_out % 8 == 0


def int8_cublas(
    x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype, *, gelu: bool
) -> Tensor:
    """Multiply int8 `x` `[rows, in]` and `weight` `[out, in]` (W8A8). The int32 sums are exact; a second pass scales them."""
    product = torch._int_mm(x, weight.t())
    return epilogue_triton(product[None], dtype, row_scales=x_scales, out_scales=scales, bias=bias, gelu=gelu)


def fp8_cublas_fits(num_in: int, num_out: int) -> bool:
    """Whether `torch._scaled_mm` accepts these sizes."""
    return num_in % 16 == 0 and num_out % 16 == 0


def fp8_cublas(
    x: Tensor, x_scales: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, dtype: torch.dtype, *, gelu: bool
) -> Tensor:
    """Multiply `x` `[rows, in]` and `weight` `[out, in]`, both float8_e4m3fn (FP8)."""
    if dtype == torch.bfloat16:  # the only result type for which every version of torch accepts one scale per row
        result = torch._scaled_mm(x, weight.t(), x_scales[:, None], scales[None, :], bias=bias, out_dtype=dtype)
        return gelu_reference(result) if gelu else result
    one = torch.ones((), dtype=torch.float32, device=x.device)
    product = torch._scaled_mm(x, weight.t(), one, one, out_dtype=torch.float32)
    return epilogue_triton(product[None], dtype, row_scales=x_scales, out_scales=scales, bias=bias, gelu=gelu)
