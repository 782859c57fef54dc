"""Computes GPT-J's three-way residual sum and the layer norm that follows the sum, in one pass over the hidden state."""

from __future__ import annotations

from torch import Tensor

from labkit.native import operations
from labkit.ops.layer_norm import layer_norm_reference
from labkit.ops.registry import operation


def residual_layer_norm_reference(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The reference implementation of `residual_layer_norm` in PyTorch; it adds in the same order as Hugging Face's GPT-J."""
    hidden = attention + mlp + residual
    return hidden, layer_norm_reference(hidden, weight, bias, epsilon)


@operation(native=operations.residual_layer_norm)
def residual_layer_norm(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Return two tensors: hidden = attention + mlp + residual, and layer_norm(hidden), the input of the next block.

    `residual`, `attention` and `mlp` are `[tokens, hidden_size]`, `weight` and `bias` are `[hidden_size]`. Both results are
    `[tokens, hidden_size]` in the dtype of `residual`. The kernels work in one pass: they do not read the sum from memory
    again.
    """
    return residual_layer_norm_reference(residual, attention, mlp, weight, bias, epsilon)
