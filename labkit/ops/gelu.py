"""Defines GPT-J's activation function."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gelu(x: Tensor) -> Tensor:
    """Apply the tanh form of GELU to each element of `x` (Hendrycks & Gimpel 2016).

    It is 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    return F.gelu(x, approximate="tanh")
