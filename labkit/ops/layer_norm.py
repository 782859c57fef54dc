"""Layer norm over the hidden dimension."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last dimension (Ba et al. 2016).

    `x` `[tokens, hidden_size]`, `weight` and `bias` `[hidden_size]`; same shape and dtype out. The variance is the
    biased one.
    """
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)
