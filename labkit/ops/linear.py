"""The matrix product that reads almost every byte of the model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: `x` `[tokens, in]`, `weight` `[out, in]`, `bias` `[out]` or none; `[tokens, out]` out."""
    return F.linear(x, weight, bias)
