"""SmoothQuant: scales large activation channels down and the matching weights up, so that both can be rounded to 8 bits.

G. Xiao et al.: SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models (2022),
https://arxiv.org/abs/2211.10438.

For any positive s, W x = (W diag(s)) (x / s). The paper chooses s_j = max|x_j|^alpha / max|W_j|^(1 - alpha). With alpha 0.5,
channel j of x and column j of W get the same largest magnitude. The division of x is folded into the operation before the layer
(`folds`), so the model's results stay the same. For fc_out, folding is not possible.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.compress.block import FIRST, Block
from labkit.compress.folds import into_layer_norm
from labkit.compress.magnitudes import largest_of_channels
from labkit.errors import InvalidRequest

ALPHA = 0.5
"""The default alpha: how much of the activations' range moves into the weights (the paper's choice for OPT and BLOOM)."""
SMALLEST = 1e-5
"""Magnitudes below this value are raised to it."""


def check_alpha(alpha: float) -> None:
    """Raise `InvalidRequest` unless alpha is between 0 and 1."""
    if not 0 <= alpha <= 1:
        raise InvalidRequest(
            f"alpha is {alpha!r}; a number from 0 (nothing moves into the weights) to 1 (everything moves) is accepted"
        )


def factors(channels: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """Compute the factors s `[in]` from the largest magnitude of each input channel, `channels` `[in]`, and from `weight`.

    `weight` is a dense matrix `[out, in]`.
    """
    columns = weight.abs().amax(0).clamp_min(SMALLEST)
    return channels.clamp_min(SMALLEST).pow(alpha) / columns.pow(1 - alpha)


def smooth(block: Block, hidden: Sequence[Tensor], alpha: float, where: str) -> None:
    """Smooth a block in place; its results stay the same, except for float32 rounding.

    The inputs of q, k, v and fc_in are smoothed through the layer norm before them. Then the inputs of out_proj are smoothed
    through the rows of v_proj. `hidden` are the states that enter the block, one tensor for each calibration window. `where`
    names the block in messages.
    """
    tensors = block.tensors
    channels = largest_of_channels(f"{where} layer norm", map(block.normed, hidden))
    first = factors(channels, torch.cat([tensors[f"{name}.weight"] for name in FIRST]), alpha)
    into_layer_norm(tensors, first)
    for name in FIRST:
        tensors[f"{name}.weight"] = tensors[f"{name}.weight"] * first
    attended = largest_of_channels(f"{where} out_proj", (block.attended(block.normed(each)) for each in hidden))
    second = factors(attended, tensors["attn.out_proj.weight"], alpha)
    tensors["attn.v_proj.weight"] = tensors["attn.v_proj.weight"] / second[:, None]
    tensors["attn.out_proj.weight"] = tensors["attn.out_proj.weight"] * second
