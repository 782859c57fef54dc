"""Prefill attention: the new tokens of a sequence (a prompt or a part of one) attend causally to the sequence's cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.native import operations
from labkit.ops.registry import operation


def prefill_attention_reference(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """The reference implementation of `prefill_attention` in PyTorch; scores and softmax are computed in float32 or wider."""
    attended = torch.empty_like(query)
    bounds = starts.tolist()
    for row, length in enumerate(lengths.tolist()):
        begin, end = bounds[row], bounds[row + 1]
        slots = slot_table[row, :length]
        key, value = keys[slots].transpose(0, 1), values[slots].transpose(0, 1)  # [num_heads, length, head_dim]
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = query[begin:end].transpose(0, 1).to(wide) @ key.to(wide).transpose(1, 2)  # [num_heads, new, length]
        position = torch.arange(length - (end - begin), length, dtype=torch.int64, device=query.device)
        future = torch.arange(length, dtype=torch.int64, device=query.device) > position[:, None]
        scores = scores.mul_(1 / math.sqrt(query.shape[-1])).masked_fill_(future, -math.inf)
        weights = torch.softmax(scores, dim=-1).to(value.dtype)
        attended[begin:end] = (weights @ value).transpose(0, 1).to(query.dtype)
    return attended


def _head_fits(query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, starts: Tensor, lengths: Tensor) -> bool:
    """Whether the Triton kernel accepts this head size.

    If a head is wider than 256 dimensions, the sums that a program of the kernel keeps do not fit into its registers.
    """
    return query.shape[-1] <= 256


@operation(native=operations.prefill_attention, triton_takes=_head_fits)
def prefill_attention(
    query: Tensor, keys: Tensor, values: Tensor, slot_table: Tensor, starts: Tensor, lengths: Tensor
) -> Tensor:
    """Return softmax(q k^T / sqrt(head_dim)) v (Vaswani et al. 2017, eq. 1). Each sequence attends to its own cache, causally.

    `query` `[tokens, num_heads, head_dim]` holds the new tokens of all sequences, one sequence after another: sequence s has
    the rows from `starts[s]` up to, but not including, `starts[s + 1]` (`starts` `[sequences + 1]` int32). `keys` and `values`
    are `[num_slots, num_heads, head_dim]` and already hold the new tokens. Sequence s owns the slots `slot_table[s,
    :lengths[s]]` (`slot_table` `[sequences, any]` int32, `lengths` `[sequences]` int32). The new tokens are in the last of
    these slots. Each new token attends to the slots of its sequence up to its own slot. Returns `[tokens, num_heads, head_dim]`
    in the dtype of `query`.
    """
    return prefill_attention_reference(query, keys, values, slot_table, starts, lengths)
