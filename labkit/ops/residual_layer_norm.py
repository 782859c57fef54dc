"""GPT-J's three-way residual sum and the layer norm behind it, in one pass over the hidden state."""

from __future__ import annotations

from torch import Tensor

from labkit.native import operations
from labkit.ops.backend import on_native, on_triton
from labkit.ops.layer_norm import layer_norm_reference
from labkit.ops.registry import operation


def residual_layer_norm_reference(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The specification of `residual_layer_norm`, in torch; the sum in the order in which Hugging Face's GPT-J adds."""
    hidden = attention + mlp + residual
    return hidden, layer_norm_reference(hidden, weight, bias, epsilon)


@operation
def residual_layer_norm(
    residual: Tensor, attention: Tensor, mlp: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """hidden = attention + mlp + residual, and layer_norm(hidden), which the next block reads.

    `residual`, `attention`, `mlp` `[tokens, hidden_size]`, `weight` and `bias` `[hidden_size]`. Returns the two tensors
    `[tokens, hidden_size]` in the dtype of `residual`. In one pass, so that the sum is not written and read again between.
    """
    if on_native(residual):
        return operations.residual_layer_norm(residual, attention, mlp, weight, bias, epsilon)
    if on_triton(residual):
        from labkit.ops.kernels.residual_layer_norm import residual_layer_norm_triton

        return residual_layer_norm_triton(residual, attention, mlp, weight, bias, epsilon)
    return residual_layer_norm_reference(residual, attention, mlp, weight, bias, epsilon)
