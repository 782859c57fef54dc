"""Computes decode attention: the one new token of each sequence attends to the cached tokens of this sequence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.native import operations
from labkit.ops.registry import operation


def decode_attention_reference(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
    """The reference implementation of `decode_attention` in PyTorch. Scores and softmax are in float32 or wider."""
    longest = int(lengths.max())
    seen = torch.arange(longest, dtype=torch.int64, device=query.device) < lengths[:, None]  # [sequences, longest]
    slots = torch.where(seen, slot_table[:, :longest], slot_table[:, :1])
    key, value = keys[slots], values[slots]  # [sequences, longest, num_heads, head_dim]
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("shd,slhd->shl", query.to(wide), key.to(wide)).mul_(1 / math.sqrt(query.shape[-1]))
    weights = torch.softmax(scores.masked_fill_(~seen[:, None], -math.inf), dim=-1)
    return torch.einsum("shl,slhd->shd", weights.to(value.dtype), value).to(query.dtype)


@operation(native=operations.decode_attention)
def decode_attention(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, lengths: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(head_dim)) v for one query per sequence.

    `query` is `[sequences, num_heads, head_dim]`. `keys` and `values` are `[num_slots, num_heads, head_dim]` and already hold
    the new tokens. Sequence s attends only to the slots `slot_table[s, :lengths[s]]`. `slot_table` is `[sequences, columns]`
    int32, with any number of columns. `lengths` is `[sequences]` int32; each length is at least 1. Returns `[sequences,
    num_heads, head_dim]` in the dtype of `query`.
    """
    return decode_attention_reference(query, keys, values, slot_table, lengths)
