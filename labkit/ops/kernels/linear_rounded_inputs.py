"""Defines the base class of the kinds of weight whose matrix multiplications run in 8 bits on a GPU."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from labkit.ops.kernels.linear_few_rows import few_rows_triton
from labkit.ops.kernels.linear_kind import LinearKind
from labkit.ops.kernels.linear_plan import Plan, few_rows_tiles, parted
from labkit.ops.kernels.linear_quantize import quantize_rows_triton
from labkit.ops.kernels.triton_runtime import arch_of
from labkit.weight_formats import RoundedInputsWeight


class RoundedInputsKind(LinearKind):
    """Rounds the inputs and multiplies in 8 bits. If cuBLAS refuses a shape, the kernel for few rows runs."""

    def tiles(self, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
        """Return `few_rows_tiles` for every dtype of x, because the multiplication always runs in 8 bits."""
        return few_rows_tiles(rows, arch, 1)

    @abstractmethod
    def cublas_fits(self, rows: int, num_in: int, num_out: int) -> bool:
        """Whether cuBLAS accepts these sizes."""

    @abstractmethod
    def cublas(
        self, x: Tensor, x_scales: Tensor, weight: RoundedInputsWeight, bias: Tensor | None, dtype: torch.dtype, *, gelu: bool
    ) -> Tensor:
        """Multiply the rounded inputs by the weight with cuBLAS. `dtype` is the dtype of the result."""

    def run(self, plan: Plan, x: Tensor, weight: RoundedInputsWeight, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """Compute the layer as `plan` says."""
        values, scales = quantize_rows_triton(x, weight.values.dtype, weight.input_scale)
        num_out, num_in = weight.shape
        config = plan.config
        if plan.kernel == "cublas":
            if self.cublas_fits(x.shape[0], num_in, num_out):
                return self.cublas(values, scales, weight, bias, x.dtype, gelu=gelu)
            config = next(iter(parted(self.tiles(64, torch.float16, 0, arch_of(x.device))[0], num_in, num_out)))
        return few_rows_triton(values, weight.values, scales, weight.scales, bias, dtype=x.dtype, gelu=gelu, config=config)
