"""Attention of one new token of each sequence over its cache (decode)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.native import operations
from labkit.ops.backend import on_native, on_triton
from labkit.ops.registry import operation


def decode_attention_reference(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
    """The specification of `decode_attention`, in torch; scores and softmax in float32 at least."""
    longest = int(lengths.max())
    seen = torch.arange(longest, dtype=torch.int64, device=query.device) < lengths[:, None]  # [sequences, longest]
    slots = torch.where(seen, slot_table[:, :longest], slot_table[:, :1])
    key, value = keys[slots], values[slots]  # [sequences, longest, num_heads, head_dim]
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("shd,slhd->shl", query.to(wide), key.to(wide)).mul_(1 / math.sqrt(query.shape[-1]))
    weights = torch.softmax(scores.masked_fill_(~seen[:, None], -math.inf), dim=-1)
    return torch.einsum("shl,slhd->shd", weights.to(value.dtype), value).to(query.dtype)


@operation
def decode_attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v for one query a sequence.

    `query` `[sequences, num_heads, head_dim]`; `keys`, `values` `[num_slots, num_heads, head_dim]` already hold the new
    tokens; sequence s sees the slots `slot_table[s, :lengths[s]]` (`slot_table` `[sequences, any]` int32, `lengths`
    `[sequences]` int32, each at least 1) and nothing else. Returns `[sequences, num_heads, head_dim]` in the dtype of
    `query`.
    """
    if on_native(query):
        starts = torch.arange(len(query) + 1, dtype=torch.int32, device="cpu")
        return operations.attention(query, keys, values, slot_table, starts, lengths)
    if on_triton(query):
        from labkit.ops.kernels.decode_attention import decode_attention_triton

        return decode_attention_triton(query, keys, values, slot_table, lengths)
    return decode_attention_reference(query, keys, values, slot_table, lengths)
