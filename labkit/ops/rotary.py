"""Rotary position embedding (Su et al. 2021), as in GPT-J.

Neighbouring pairs of the first dimensions of each head are rotated by an angle that depends on the token's position.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions: int, rotary_dim: int, device: torch.device | None = None) -> Tensor:
    """The sines and cosines of the angles position * 10000^(-2i / rotary_dim): `[2, positions, rotary_dim / 2]` float32.

    The angles are rounded to float32 at the same points as in Hugging Face's `create_sinusoidal_positions`. A more exact
    table would change what the model computes at late positions.
    """
    pairs = torch.arange(0, rotary_dim, 2, dtype=torch.float32, device="cpu")
    inverse_frequency = 1.0 / (10000 ** (pairs / rotary_dim))
    angles = torch.arange(positions, dtype=torch.float32, device="cpu")[:, None] * inverse_frequency
    return torch.stack((angles.sin(), angles.cos())).to(device)


def rotary(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Rotate each pair (x[2i], x[2i+1]) of the first `2 * pairs` dimensions of every head by the angle of the token's position.

    `x` is `[tokens, num_heads, head_dim]`, `sin` and `cos` are `[tokens, pairs]`. Returns a tensor of the shape and dtype of
    `x`. Dimensions after the first `2 * pairs` are unchanged.
    """
    rotary_dim = 2 * sin.shape[-1]
    rotated, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    sin, cos = sin[:, None].to(x.dtype), cos[:, None].to(x.dtype)
    pairs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat((pairs, kept), dim=-1)
