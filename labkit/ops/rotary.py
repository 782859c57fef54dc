"""Rotary positions (Su et al. 2021) in GPT-J's form: neighbouring pairs, on the first dimensions of each head."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: int, rotary_dim: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines `[2, positions, rotary_dim / 2]` float32 of the angles position * 10000^(-2i / rotary_dim).

    The angles are rounded to float32 in the same places as in Hugging Face's `create_sinusoidal_positions`: at far
    positions a more exact table would be a different model.
    """
    pairs = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu")
    inverse_frequency = 1.0 / (10000 ** (pairs / rotary_dim))
    angles = torch.arange(positions, dtype=torch.float32, device="cpu")[:, None] * inverse_frequency
    return torch.stack((angles.sin(), angles.cos())).to(device)


def rotary(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Turn each pair (x[2i], x[2i+1]) of the first `2 * pairs` dimensions of every head by its position's angle.

    `x` `[tokens, num_heads, head_dim]`; `sin`, `cos` `[tokens, pairs]`. Same shape and dtype out; the dimensions
    behind the first `2 * pairs` pass through.
    """
    rotary_dim = 2 * sin.shape[-1]
    turned, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    sin, cos = sin[:, None].to(x.dtype), cos[:, None].to(x.dtype)
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((pairs, kept), dim=-1)
