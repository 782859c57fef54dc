"""Chooses and runs the kernels for int4 weights on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_cublas import dequantized_cublas
from labkit.ops.kernels.linear_few_rows_int4 import few_rows_int4_triton
from labkit.ops.kernels.linear_kind import LinearKind
from labkit.ops.kernels.linear_one_row_int4 import one_row_int4_triton
from labkit.ops.kernels.linear_plan import Plan, row_vector_plans, tile
from labkit.weight_formats import Int4Weight


class Int4Kind(LinearKind):
    """The kind of `Int4Weight`."""

    name, head_name = Int4Weight.kind, Int4Weight.head_kind

    def quantize(self, dense: Tensor) -> Int4Weight:
        """Call `Int4Weight.quantize`, which uses groups of 32."""
        return Int4Weight.quantize(dense)

    def one_row_plans(self, num_in: int, group: int, dtype: torch.dtype) -> list[Plan]:
        """Return no plans unless the group size is a multiple of 32, because the kernel reads 32 weights at once."""
        return [] if group % 32 else row_vector_plans((8, 2), (8, 1), (4, 1), (4, 4), (8, 4), (16, 2))

    def tiles(self, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
        """Return no tiles unless a group consists of whole 16-bit words, and a block consists of whole groups."""
        if dtype == torch.float32 or group % 4 or 256 % group:  # tensor cores do not multiply float32
            return []
        if rows <= 16:
            return [tile(64, 256, rows, 4, 4), tile(32, 256, rows, 2, 5), tile(64, 128, rows, 4, 5)]
        if arch < 90:  # the operands of 64 rows do not fit into registers, so two programs of 32 rows read the same weights
            return [tile(64, 256, 32, 4, 3)]
        return [tile(64, 256, rows, 4, 3), tile(64, 128, rows, 4, 4), tile(128, 128, rows, 8, 3)]

    def run(self, plan: Plan, x: Tensor, weight: Int4Weight, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """Compute the layer as `plan` says."""
        if plan.kernel == "one_row":
            return one_row_int4_triton(x, weight, bias, gelu=gelu, config=plan.config)
        if plan.kernel == "few_rows":
            return few_rows_int4_triton(x, weight, bias, gelu=gelu, config=plan.config)
        return dequantized_cublas(x, weight, bias, gelu=gelu)


KIND = Int4Kind()
