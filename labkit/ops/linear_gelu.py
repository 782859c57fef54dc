"""Linear layer and activation in one: the MLP's first half never goes to memory without its GELU."""

from __future__ import annotations

from torch import Tensor

from labkit.native.packed_weight import PackedWeight
from labkit.ops.backend import on_triton
from labkit.ops.gelu import gelu
from labkit.ops.linear import Weight, linear_reference
from labkit.ops.registry import operation
from labkit.ops.torch_packed import TorchPackedWeight


def linear_gelu_reference(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """The specification of `linear_gelu`, in torch."""
    return gelu(linear_reference(x, weight, bias))


@operation
def linear_gelu(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """gelu(x weight^T + bias): `x` `[tokens, in]`, `weight` `[out, in]`, `bias` `[out]` or none; `[tokens, out]` out.

    The activation is GPT-J's: see `labkit.ops.gelu`.
    """
    if isinstance(weight, PackedWeight | TorchPackedWeight):
        return weight.multiply(x, bias, gelu=True)
    if on_triton(x):
        from labkit.ops.kernels.linear import linear_triton

        return linear_triton(x, weight, bias, gelu=True)
    return linear_gelu_reference(x, weight, bias)
