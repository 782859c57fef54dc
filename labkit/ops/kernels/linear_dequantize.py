"""Dequantize weights to dense matrices, for matrix multiplications with many rows.

In such multiplications, reading the weight takes only a small part of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import ceil_div, jit, launch, tl
from labkit.weight_formats import Int4Weight, Int8Weight

BLOCK = 1024
"""The number of weights that one program dequantizes."""


@jit
def dequantize_int4_kernel(
    packed: tl.tensor,
    scales: tl.tensor,
    out: tl.tensor,
    num_in: tl.tensor,
    num_bytes: tl.tensor,
    num_groups: tl.tensor,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per output row and block of BLOCK neighbouring weights."""
    row = tl.program_id(0).to(tl.int64)  # 64 bits: the matrix can have 2^31 weights
    places = tl.program_id(1) * (BLOCK // 2) + tl.arange(0, BLOCK // 2)
    byte = tl.load(packed + row * num_bytes + places, mask=places < num_bytes, other=0)
    scale = tl.load(scales + row * num_groups + places * 2 // GROUP, mask=places < num_bytes, other=0.0).to(tl.float32)
    low = ((byte & 15).to(tl.float32) - 8.0) * scale
    high = ((byte >> 4).to(tl.float32) - 8.0) * scale
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    weights = tl.interleave(low, high).to(out.dtype.element_ty)
    tl.store(out + row * num_in + columns, weights, mask=columns < num_in)


def dequantize_triton(weight: Int8Weight | Int4Weight, dtype: torch.dtype) -> Tensor:
    """Compute `weight.dequantize(dtype)` in one pass, which writes only the dense `[out, in]` matrix."""
    num_out, num_in = weight.shape
    if isinstance(weight, Int8Weight):
        dense = torch.empty((num_out, num_in), dtype=dtype, device=weight.values.device)
        return torch.mul(weight.values, weight.scales[:, None], out=dense)  # torch multiplies in float32 and rounds once
    dense = torch.empty((num_out, num_in), dtype=dtype, device=weight.packed.device)
    launch(
        dequantize_int4_kernel,
        (num_out, ceil_div(num_in, BLOCK)),
        *(weight.packed, weight.scales, dense, num_in, weight.packed.shape[1], weight.scales.shape[1]),
        GROUP=weight.group_size,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return dense
