"""Round activations to 8 bits in one pass while the model runs. Each row has one scale, which is computed or given."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.layer_norm import row_config
from labkit.ops.kernels.triton_runtime import jit, launch, tl
from labkit.weight_formats import FP8_MAX, INT8_MAX


@jit
def nearest_e4m3(x: tl.tensor) -> tl.tensor:
    """Round float32 numbers from -448 to 448 to the nearest e4m3 number, ties to even. The result is float32.

    The rounding is done by hand, because the conversion in Triton's interpreter rounds differently. After this function, the
    conversion to e4m3 is exact.
    """
    # The exponent is at least that of 2^-6, because smaller numbers have the same steps.
    exponent = tl.maximum(x.to(tl.uint32, bitcast=True) & 0x7F800000, 121 << 23)
    # Near 1.5 * 2^(e + 20) float32 has steps of 2^(e - 3), the steps of a number with 3 bits after its leading bit.
    grid = exponent.to(tl.float32, bitcast=True) * 1572864.0
    return (x + grid) - grid


@jit
def quantize_kernel(
    x: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    num_columns: tl.tensor,
    LARGEST: tl.constexpr,
    STATIC: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row. The program keeps its row in registers. With `STATIC`, the scales are given.

    A row with NaN gets the scale NaN: int8 cannot hold NaN, and Triton's maximum ignores NaN on a GPU. A given scale becomes
    NaN also if the row has an infinity.
    """
    row = tl.program_id(0).to(tl.int64)  # 64 bits: rows * columns can pass 2^31
    columns = tl.arange(0, BLOCK)
    inside = columns < num_columns
    numbers = tl.load(x + row * num_columns + columns, mask=inside, other=0.0).to(tl.float32)
    # Use IEEE divisions, as the torch version does, because an approximate quotient would sometimes round to another number.
    # The bits of magnitudes are in the order of the magnitudes; those of infinity and then those of NaN come last.
    bits = tl.max(numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
    if STATIC:
        inverse = tl.div_rn(1.0, tl.load(scales + row))
        tl.store(scales + row, float("nan"), mask=bits >= 0x7F800000)
    else:
        largest = bits.to(tl.float32, bitcast=True)
        tl.store(scales + row, largest * (1.0 / LARGEST))
        inverse = tl.div_rn(LARGEST, tl.maximum(largest, 1e-30))
    numbers = tl.minimum(tl.maximum(numbers * inverse, -LARGEST), LARGEST)
    if values.dtype.element_ty == tl.int8:
        rounded = (
            numbers + 12582912.0
        ) - 12582912.0  # near 1.5 * 2^23 float32 has steps of 1: this rounds to nearest, ties to even
    else:
        rounded = nearest_e4m3(numbers)
    tl.store(values + row * num_columns + columns, rounded.to(values.dtype.element_ty), mask=inside)


def quantize_rows_triton(x: Tensor, dtype: torch.dtype, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """Run `labkit.weight_formats.quantize_rows_int8` or `..._fp8` on `x` `[rows, columns]`.

    `dtype` (int8 or float8_e4m3fn) decides which of the two functions runs. If `scale` is given, all rows use this scale.
    """
    rows, columns = x.shape
    values = torch.empty((rows, columns), dtype=dtype, device=x.device)
    scales = torch.full((rows,), scale or 0.0, dtype=torch.float32, device=x.device)
    sizes = {"LARGEST": INT8_MAX if dtype == torch.int8 else FP8_MAX, "STATIC": scale is not None}
    launch(quantize_kernel, (rows,), x, values, scales, columns, **sizes, **row_config(columns))
    return values, scales
