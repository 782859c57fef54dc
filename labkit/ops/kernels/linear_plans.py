"""Lists the candidate plans for a linear layer on a GPU, by kind of weight and number of rows.

The first candidate runs until the layer is tuned.

The plan `one_row` runs a kernel from `linear_one_row`, and `few_rows` runs a kernel from `linear_few_rows`; int8 and int4
weights have their own versions of these files. The plan `cublas` runs a matrix multiplication from `linear_cublas`.
"""

from __future__ import annotations

import functools

import torch

from labkit.ops.kernels.linear_kind import kind_named
from labkit.ops.kernels.linear_plan import CUBLAS, Plan, parted
from labkit.ops.kernels.triton_runtime import power_of_two


@functools.cache
def plans(kind: str, rows: int, num_in: int, num_out: int, dtype: torch.dtype, group: int, arch: int) -> dict[str, Plan]:
    """Return the candidates by label. The first candidate is the default.

    `rows` is a result of `rows_bucket`. `dtype` is the dtype of x. `group` is the group size of an int4 weight, and 0 for other
    weights. `arch` is the compute capability, 80 or 90.
    """
    found = kind_named(kind)
    candidates = found.one_row_plans(num_in, group, dtype) if rows == 1 else []
    for tile in found.tiles(rows, dtype, group, arch):
        candidates += [Plan("few_rows", config) for config in parted(tile, num_in, num_out)]
    return {plan.label: plan for plan in (*candidates, CUBLAS)}


def rows_bucket(rows: int) -> int:
    """Round up to a power of two. All numbers of rows that round up to the same power of two share one choice."""
    return power_of_two(rows)
