"""A linear layer with its activation: GELU is applied before the result is written to memory."""

from __future__ import annotations

from torch import Tensor

from labkit.ops.gelu import gelu
from labkit.ops.linear import PACKED, Weight, linear_reference
from labkit.ops.registry import operation


def linear_gelu_reference(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """The reference implementation of `linear_gelu` in PyTorch."""
    return gelu(linear_reference(x, weight, bias))


@operation()
def linear_gelu(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """Return gelu(x weight^T + bias), `[tokens, out]`. `x` is `[tokens, in]`, `weight` `[out, in]`, `bias` `[out]` or None.

    The activation is GPT-J's GELU, see `labkit.ops.gelu`. For a packed weight, the weight's own kernel runs.
    """
    if isinstance(weight, PACKED):
        return weight.multiply(x, bias, gelu=True)
    return linear_gelu_reference(x, weight, bias)
