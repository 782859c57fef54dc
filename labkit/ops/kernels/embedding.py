"""Computes the token embedding: copies rows of the table."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import ceil_div, jit_once_for_all, launch, power_of_two, tl

BLOCK = 2048
"""The number of columns that a program copies: 16 bytes per thread in half precision. Several programs copy one row."""


@jit_once_for_all("token_ids")
def embedding_kernel(
    token_ids: tl.tensor, table: tl.tensor, out: tl.tensor, vocab_size: tl.tensor, hidden_size: tl.tensor, BLOCK: tl.constexpr
) -> None:
    """One program per token and block of `BLOCK` columns."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < hidden_size
    row = tl.load(token_ids + token)
    # A token outside the table becomes NaN, which is visible in the logits. Memory outside the table is never read.
    known = (row >= 0) & (row < vocab_size)
    values = tl.load(table + row * hidden_size + columns, mask=inside & known, other=float("nan"))
    tl.store(out + token * hidden_size + columns, values, mask=inside)


def embedding_triton(token_ids: Tensor, table: Tensor) -> Tensor:
    """Run `labkit.ops.embedding` as a Triton kernel. A token outside the table gives a row of NaN."""
    vocab_size, hidden_size = table.shape
    out = torch.empty(token_ids.shape[0], hidden_size, dtype=table.dtype, device=table.device)
    block = min(power_of_two(hidden_size), BLOCK)
    grid = (token_ids.shape[0], ceil_div(hidden_size, block))
    tensors = token_ids.contiguous(), table.contiguous(), out
    launch(embedding_kernel, grid, *tensors, vocab_size, hidden_size, BLOCK=block, num_warps=max(block // 512, 1))
    return out
