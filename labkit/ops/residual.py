"""GPT-J's residual sum: attention and MLP read the same input and are added together."""

from __future__ import annotations

from torch import Tensor


def add_residual(residual: Tensor, attention: Tensor, mlp: Tensor) -> Tensor:
    """attention + mlp + residual, elementwise, in the order in which Hugging Face's GPT-J adds them."""
    return attention + mlp + residual
