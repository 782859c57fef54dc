"""Computes linear layers on a GPU. The kind of weight and the number of rows decide which kernel runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from labkit.ops.kernels.autotune import Problem, Tuner
from labkit.ops.kernels.linear_kind import GPUWeight, kind_of
from labkit.ops.kernels.linear_plan import CUBLAS, Plan
from labkit.ops.kernels.linear_plans import plans, rows_bucket
from labkit.ops.kernels.triton_runtime import arch_of

SOURCES = sorted(Path(__file__).parent.glob("linear*.py"))
"""A change of any of these files makes tuned choices stale."""

tuner = Tuner(SOURCES)
"""Chooses among the plans that `plans` returns. `labkit.ops.kernels.linear_tune.tune` measures these plans."""


def linear_triton(x: Tensor, weight: GPUWeight, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Compute `labkit.ops.linear`, or `labkit.ops.linear_gelu` if `gelu` is set, for any kind of weight.

    Raises `NotAvailable` for an FP8 weight on a GPU without FP8.
    """
    num_out, num_in = weight.shape
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    rows = x.shape[0]
    if rows == 0:
        return torch.empty((0, num_out), dtype=x.dtype, device=x.device)
    kind, arch = kind_of(weight), arch_of(x.device)
    kind.check(arch)
    strided = isinstance(weight, Tensor) and not weight.is_contiguous()  # a part of a larger matrix, which cuBLAS can read
    if rows > kind.streamed_rows or strided:
        return run_plan(CUBLAS, x, weight, bias, gelu=gelu)
    bucket = rows_bucket(rows)
    group = 0 if isinstance(weight, Tensor) else weight.group_size
    candidates = plans(kind.name, bucket, num_in, num_out, x.dtype, group, arch)
    name = f"linear {kind.name} group {group}" if group else f"linear {kind.name}"
    problem = Problem(name, (bucket, num_in, num_out), x.dtype, x.device)
    plan = tuner.choose(problem, candidates, lambda plan: run_plan(plan, x, weight, bias, gelu=gelu))
    return run_plan(plan, x, weight, bias, gelu=gelu)


def run_plan(plan: Plan, x: Tensor, weight: GPUWeight, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """Compute the layer as `plan` says; `x` is contiguous and not empty."""
    return kind_of(weight).run(plan, x, weight, bias, gelu=gelu)
