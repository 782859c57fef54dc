"""Chooses and runs the kernels for a dense matrix on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_cublas import dense_cublas
from labkit.ops.kernels.linear_few_rows import few_rows_triton
from labkit.ops.kernels.linear_kind import LinearKind
from labkit.ops.kernels.linear_one_row import one_row_triton
from labkit.ops.kernels.linear_plan import Plan, few_rows_tiles


class DenseKind(LinearKind):
    """The kind of a dense matrix, whose dtype is the dtype of x."""

    name = head_name = "dense"
    streamed_rows = 16

    def quantize(self, dense: Tensor) -> Tensor:
        """Return the matrix itself."""
        return dense

    def one_row_plans(self, num_in: int, group: int, dtype: torch.dtype) -> list[Plan]:
        """Return plans that differ in outputs per block, warps per block, and loads of a thread in flight for each output.

        The first plan was the fastest on an H200.
        """
        vector = 16 // dtype.itemsize
        blocks = ((2, 4, 2), (1, 4, 2), (2, 8, 2), (2, 4, 1), (4, 4, 2), (8, 4, 1))
        return [
            Plan("one_row", {"BLOCK_OUT": out, "BLOCK_IN": 32 * warps * vector * loads, "num_warps": warps})
            for out, warps, loads in blocks
        ]

    def tiles(self, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
        """Return `few_rows_tiles`, but no tiles for float32, because tensor cores do not multiply float32."""
        return [] if dtype == torch.float32 else few_rows_tiles(rows, arch, 2)

    def run(self, plan: Plan, x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """Compute the layer as `plan` says."""
        if plan.kernel == "one_row":
            return one_row_triton(x, weight, bias, gelu=gelu, config=plan.config)
        if plan.kernel == "few_rows":
            return few_rows_triton(x, weight, None, None, bias, dtype=x.dtype, gelu=gelu, config=plan.config)
        return dense_cublas(x, weight, bias, gelu=gelu)


KIND = DenseKind()
