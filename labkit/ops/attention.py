"""Attention over the cache: many query tokens of one sequence (prefill), or one of each sequence (decode).

Scores and softmax are computed in float32 at least, whatever the dtype of the tensors, as Hugging Face's GPT-J does.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prefill_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention of the last `new` positions of one sequence over all its `length` positions.

    `query` `[new, num_heads, head_dim]`; `key`, `value` `[num_heads, length, head_dim]` with `length >= new`.
    Returns `[new, num_heads, head_dim]` in the dtype of `query`. Query i sits at position `length - new + i`
    and sees the positions up to its own: softmax(q k^T / sqrt(head_dim)) v (Vaswani et al. 2017, eq. 1).
    """
    new, length = query.shape[0], key.shape[1]
    wide = _score_dtype(query)
    scores = query.transpose(0, 1).to(wide) @ key.to(wide).transpose(1, 2)  # [num_heads, new, length]
    position = torch.arange(length - new, length, device=query.device)
    future = torch.arange(length, device=query.device) > position[:, None]
    scores = scores.mul_(1 / math.sqrt(query.shape[-1])).masked_fill_(future, -math.inf)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return (weights @ value).transpose(0, 1)


def decode_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Tensor) -> Tensor:
    """Attention of one new token of each sequence over the cache of that sequence.

    `query` `[batch, num_heads, head_dim]`; `key`, `value` `[batch, num_heads, capacity, head_dim]`, of which the first
    `lengths[b]` positions count (`lengths` `[batch]` int64, each at least 1); what lies behind them gets no weight, but
    must be finite. Returns `[batch, num_heads, head_dim]` in the dtype of `query`.
    """
    wide = _score_dtype(query)
    scores = (key.to(wide) @ query.to(wide).unsqueeze(-1)).squeeze(-1)  # [batch, num_heads, capacity]
    beyond = torch.arange(key.shape[2], device=query.device) >= lengths[:, None]
    scores = scores.mul_(1 / math.sqrt(query.shape[-1])).masked_fill_(beyond[:, None], -math.inf)
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    return (weights.unsqueeze(2) @ value).squeeze(2)


def _score_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
