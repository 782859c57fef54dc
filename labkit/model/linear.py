"""Defines linear layers. The model calls them without knowing whether a weight is dense, quantized, packed or a shard."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from labkit import ops
from labkit.native.packed_weight import PackedWeight


@dataclass(frozen=True)
class Linear:
    """A layer with `weight` `[out, in]`, dense or quantized, and `bias` `[out]` or None. If `gelu` is set, GELU follows."""

    weight: ops.Weight
    bias: Tensor | None = None
    gelu: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the layer to `x` `[tokens, in]`. Returns `[tokens, out]`."""
        weight = self.weight
        if isinstance(weight, PackedWeight) and ("linear_gelu" if self.gelu else "linear") in ops.replacements():
            weight = weight.dense  # a function that replaces the operation (`ops.use`) expects a plain matrix
        return (ops.linear_gelu if self.gelu else ops.linear)(x, weight, self.bias)

    @property
    def byte_count(self) -> int:
        """How many bytes of the weight and the bias one call reads."""
        weight = self.weight
        read = weight.numel() * weight.element_size() if isinstance(weight, Tensor) else weight.byte_count
        return read if self.bias is None else read + self.bias.numel() * self.bias.element_size()
