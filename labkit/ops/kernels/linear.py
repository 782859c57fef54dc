"""Linear layers on a GPU: chooses the kernel by the kind of weight and the number of rows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from labkit.errors import NotAvailable
from labkit.ops.kernels.autotune import Problem, Tuner
from labkit.ops.kernels.linear_cublas import (
    dense_cublas,
    dequantized_cublas,
    fp8_cublas,
    fp8_cublas_fits,
    int8_cublas,
    int8_cublas_fits,
)
from labkit.ops.kernels.linear_few_rows import few_rows_triton
from labkit.ops.kernels.linear_few_rows_int4 import few_rows_int4_triton
from labkit.ops.kernels.linear_one_row import one_row_triton
from labkit.ops.kernels.linear_one_row_int4 import one_row_int4_triton
from labkit.ops.kernels.linear_one_row_int8 import one_row_int8_triton
from labkit.ops.kernels.linear_plans import CUBLAS, STREAMED_ROWS, Plan, plans, rows_bucket
from labkit.ops.kernels.linear_quantize import quantize_rows_triton
from labkit.ops.kernels.triton_runtime import arch_of
from labkit.weight_formats import Fp8Weight, Int4Weight, Int8DynamicWeight, Int8Weight, QuantizedWeight

GPUWeight = Tensor | QuantizedWeight
"""The kinds of weight that a GPU multiplies by."""
KINDS = {Int8Weight: "int8", Int4Weight: "int4", Int8DynamicWeight: "int8 dynamic", Fp8Weight: "fp8"}
"""Names of the quantized formats."""
FP8_ARCH = 89
"""The first compute capability whose tensor cores multiply FP8."""

SOURCES = sorted(Path(__file__).parent.glob("linear*.py"))
"""A change of any of these files makes tuned choices stale."""

tuner = Tuner(SOURCES)
"""Chooses among `plans`; `labkit.ops.kernels.linear_tune.tune` measures them."""


def linear_triton(x: Tensor, weight: GPUWeight, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`labkit.ops.linear`, or with `gelu` `labkit.ops.linear_gelu`, for any kind of weight.

    Raises `NotAvailable` for an FP8 weight on a GPU without FP8.
    """
    num_out, num_in = weight.shape
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    rows = x.shape[0]
    if rows == 0:
        return torch.empty((0, num_out), dtype=x.dtype, device=x.device)
    kind = kind_of(weight)
    arch = arch_of(x.device)
    if isinstance(weight, Fp8Weight) and arch < FP8_ARCH:
        raise NotAvailable(
            f"a weight is in FP8, which needs a GPU of compute capability 8.9 or above; this one has {arch / 10}: "
            "quantize to int8 or int4 instead"
        )
    strided = isinstance(weight, Tensor) and not weight.is_contiguous()  # a part of a larger matrix, which cuBLAS can read
    if rows > STREAMED_ROWS[kind] or strided:
        return run_plan(CUBLAS, x, weight, bias, gelu=gelu)
    bucket = rows_bucket(rows)
    group = weight.group_size if isinstance(weight, Int4Weight) else 0
    candidates = plans(kind, bucket, num_in, num_out, x.dtype, group, arch)
    name = f"linear {kind} group {group}" if group else f"linear {kind}"
    problem = Problem(name, (bucket, num_in, num_out), x.dtype, x.device)
    plan = tuner.choose(problem, candidates, lambda plan: run_plan(plan, x, weight, bias, gelu=gelu))
    return run_plan(plan, x, weight, bias, gelu=gelu)


def kind_of(weight: GPUWeight) -> str:
    """The name of a weight's format, a key of `STREAMED_ROWS`."""
    return "dense" if isinstance(weight, Tensor) else KINDS[type(weight)]


def run_plan(plan: Plan, x: Tensor, weight: GPUWeight, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """Compute the layer as `plan` says; `x` is contiguous and not empty."""
    if isinstance(weight, Int8DynamicWeight | Fp8Weight):
        return _dynamic(plan, x, weight, bias, gelu=gelu)
    if isinstance(weight, Int4Weight):
        if plan.kernel == "one_row":
            return one_row_int4_triton(x, weight, bias, gelu=gelu, config=plan.config)
        if plan.kernel == "few_rows":
            return few_rows_int4_triton(x, weight, bias, gelu=gelu, config=plan.config)
        return dequantized_cublas(x, weight, bias, gelu=gelu)
    if plan.kernel == "one_row":
        if isinstance(weight, Int8Weight):
            return one_row_int8_triton(x, weight, bias, gelu=gelu, config=plan.config)
        return one_row_triton(x, weight, bias, gelu=gelu, config=plan.config)
    values, scales = (weight, None) if isinstance(weight, Tensor) else (weight.values, weight.scales)
    if plan.kernel == "few_rows":
        return few_rows_triton(x, values, None, scales, bias, dtype=x.dtype, gelu=gelu, config=plan.config)
    if isinstance(weight, Int8Weight):
        return dequantized_cublas(x, weight, bias, gelu=gelu)
    return dense_cublas(x, weight, bias, gelu=gelu)


def _dynamic(plan: Plan, x: Tensor, weight: Int8DynamicWeight | Fp8Weight, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """Round the activations and multiply in 8 bits; a shape that cuBLAS refuses goes to the kernel for few rows."""
    values, scales = quantize_rows_triton(x, weight.values.dtype)
    num_out, num_in = weight.shape
    if plan.kernel == "cublas":
        if isinstance(weight, Fp8Weight) and fp8_cublas_fits(num_in, num_out):
            return fp8_cublas(values, scales, weight.values, weight.scales, bias, x.dtype, gelu=gelu)
        if isinstance(weight, Int8DynamicWeight) and int8_cublas_fits(x.shape[0], num_in, num_out):
            return int8_cublas(values, scales, weight.values, weight.scales, bias, x.dtype, gelu=gelu)
        candidates = plans(kind_of(weight), 64, num_in, num_out, torch.float16, 0, arch_of(x.device))
        plan = next(iter(candidates.values()))
    return few_rows_triton(values, weight.values, scales, weight.scales, bias, dtype=x.dtype, gelu=gelu, config=plan.config)
