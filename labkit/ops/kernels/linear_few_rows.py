"""Multiplies a few rows by a matrix on tensor cores.

The matrix can be dense, int8, or in a format that also rounds activations (W8A8, FP8). If there are at most about 64 rows,
reading the matrix takes longer than multiplying by it. A tile of the matrix is the left operand of the multiplication: the
outputs of the tile fill the tensor core's 16 rows, and the few rows of x fill its 8 columns. If there are too few blocks of
outputs to keep a GPU busy, several programs share the sum of an output (split-K).
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.linear_epilogue import epilogue, epilogue_triton
from labkit.ops.kernels.triton_runtime import ceil_div, jit, jit_once_for_all, launch, tl


@jit
def as_operand(weight: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """Convert a loaded weight to the type of x without rounding."""
    if weight.dtype == tl.int8 and dtype == tl.float16:
        # An int-to-float conversion runs at a quarter of the speed of other instructions. Instead, flip the sign bit to make
        # the byte unsigned, combine it with the exponent of 2^10, where float16 has steps of 1, and subtract the offset. The
        # compiler converts two weights at once.
        byte = (weight.to(tl.uint8, bitcast=True) ^ 128).to(tl.uint16)
        return (byte | 0x6400).to(tl.float16, bitcast=True) - 1152.0  # 2^10 + 128
    return weight.to(dtype)


@jit
def store_total(
    total: tl.tensor,
    outs: tl.tensor,
    rows: tl.tensor,
    row_scales: tl.tensor,
    out_scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    num_out: tl.tensor,
    GELU: tl.constexpr,
    PARTIAL: tl.constexpr,
) -> None:
    """Write the sums `total` `[outs, rows]` as the final result or, with `PARTIAL`, as this program's part of the result."""
    outs, rows = outs[:, None], rows[None, :]
    inside = (outs < num_out) & (rows < num_rows)
    if PARTIAL:
        tl.store(out + (tl.program_id(2) * num_rows + rows) * num_out + outs, total, mask=inside)
    else:
        result = epilogue(total, rows, outs, num_rows, num_out, row_scales, out_scales, bias, GELU)
        tl.store(out + rows * num_out + outs, result.to(out.dtype.element_ty), mask=inside)


@jit_once_for_all("num_rows")
def few_rows_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    row_scales: tl.tensor,
    out_scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    num_rows: tl.tensor,
    num_in: tl.tensor,
    num_out: tl.tensor,
    part_in: tl.tensor,
    GELU: tl.constexpr,
    PARTIAL: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
) -> None:
    """One program for BLOCK_OUT outputs of BLOCK_ROWS rows. It adds up `part_in` inputs, a multiple of BLOCK_IN."""
    # The offsets have 64 bits, because x, the matrix and the result can each hold 2^31 numbers.
    outs = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    rows = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    matrix_row = weight + outs.to(tl.int64)[:, None] * num_in
    x_row = x + rows[None, :] * num_in
    if x.dtype.element_ty == tl.int8:
        total = tl.zeros((BLOCK_OUT, BLOCK_ROWS), tl.int32)
    else:
        total = tl.zeros((BLOCK_OUT, BLOCK_ROWS), tl.float32)
    first = tl.program_id(2) * part_in
    for start in range(first, first + part_in, BLOCK_IN):
        ins = start + tl.arange(0, BLOCK_IN)
        out_inside = (outs < num_out)[:, None] & (ins < num_in)[None, :]
        row_inside = (rows < num_rows)[None, :] & (ins < num_in)[:, None]
        w = tl.load(matrix_row + ins[None, :], mask=out_inside, other=0.0, eviction_policy="evict_first")
        values = tl.load(x_row + ins[:, None], mask=row_inside, other=0.0)
        # "ieee" multiplies float32 exactly, not as tf32. For FP8, a tensor core keeps fewer bits of a sum than float32 has, so
        # it adds up at most BLOCK_IN products.
        total = tl.dot(
            as_operand(w, values.dtype), values, total, input_precision="ieee", max_num_imprecise_acc=BLOCK_IN,
            out_dtype=total.dtype,
        )  # fmt: skip
    store_total(total, outs, rows, row_scales, out_scales, bias, out, num_rows, num_out, GELU, PARTIAL)


def few_rows_triton(
    x: Tensor,
    weight: Tensor,
    row_scales: Tensor | None,
    out_scales: Tensor | None,
    bias: Tensor | None,
    *,
    dtype: torch.dtype,
    gelu: bool,
    config: dict[str, int],
) -> Tensor:
    """Multiply `x` `[rows, in]` by `weight` `[out, in]`. Returns `[rows, out]` in `dtype`. Scales are float32 or None.

    If x has a float type, the weight has the same type or int8. Otherwise x and the weight are both int8 or both float8_e4m3fn.
    """
    whole = x.dtype == torch.int8
    blocks = {name: value for name, value in config.items() if name != "PARTS"}
    grid, part_in = tiling(x.shape[0], weight.shape[0], weight.shape[1], config)
    parts, rows, num_out = grid[2], x.shape[0], weight.shape[0]
    scales = {"row_scales": row_scales, "out_scales": out_scales, "bias": bias}
    if parts == 1:
        out = torch.empty((rows, num_out), dtype=dtype, device=x.device)
    else:
        out = torch.empty((parts, rows, num_out), dtype=torch.int32 if whole else torch.float32, device=x.device)
    numbers = (rows, weight.shape[1], num_out, part_in)
    launch(few_rows_kernel, grid, x, weight, *scales.values(), out, *numbers, GELU=gelu, PARTIAL=parts > 1, **blocks)
    return out if parts == 1 else epilogue_triton(out, dtype, gelu=gelu, **scales)


def tiling(rows: int, num_out: int, num_in: int, config: dict[str, int]) -> tuple[tuple[int, int, int], int]:
    """Return the grid (blocks of rows, blocks of outputs, parts) and the number of inputs per part.

    A part consists of whole blocks and is never empty. In the order in which programs start, the first number of the grid
    changes fastest. So programs that read the same weights run together and share these weights in the L2 cache.
    """
    steps = ceil_div(num_in, config["BLOCK_IN"])
    part_steps = ceil_div(steps, config["PARTS"])
    grid = (ceil_div(rows, config["BLOCK_ROWS"]), ceil_div(num_out, config["BLOCK_OUT"]), ceil_div(steps, part_steps))
    return grid, part_steps * config["BLOCK_IN"]
