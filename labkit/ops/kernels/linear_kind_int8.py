"""Chooses and runs the kernels for int8 weights on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_cublas import dequantized_cublas
from labkit.ops.kernels.linear_few_rows import few_rows_triton
from labkit.ops.kernels.linear_kind import LinearKind
from labkit.ops.kernels.linear_one_row_int8 import one_row_int8_triton
from labkit.ops.kernels.linear_plan import Plan, few_rows_tiles, row_vector_plans
from labkit.weight_formats import Int8Weight


class Int8Kind(LinearKind):
    """The kind of `Int8Weight`."""

    name, head_name = Int8Weight.kind, Int8Weight.head_kind

    def quantize(self, dense: Tensor) -> Int8Weight:
        """Call `Int8Weight.quantize`."""
        return Int8Weight.quantize(dense)

    def one_row_plans(self, num_in: int, group: int, dtype: torch.dtype) -> list[Plan]:
        """Return no plans unless `num_in` is a multiple of four, because the kernel reads four weights at once."""
        return [] if num_in % 4 else row_vector_plans((8, 2), (8, 4), (4, 4), (16, 2), (8, 1), (4, 2))

    def tiles(self, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
        """Return `few_rows_tiles`, but no tiles for float32, because tensor cores do not multiply float32."""
        return [] if dtype == torch.float32 else few_rows_tiles(rows, arch, 1)

    def run(self, plan: Plan, x: Tensor, weight: Int8Weight, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """Compute the layer as `plan` says."""
        if plan.kernel == "one_row":
            return one_row_int8_triton(x, weight, bias, gelu=gelu, config=plan.config)
        if plan.kernel == "few_rows":
            values, scales = weight.values, weight.scales
            return few_rows_triton(x, values, None, scales, bias, dtype=x.dtype, gelu=gelu, config=plan.config)
        return dequantized_cublas(x, weight, bias, gelu=gelu)


KIND = Int8Kind()
