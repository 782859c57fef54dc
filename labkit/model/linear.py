"""Linear layers: what a weight is (dense, quantized; sharded later) lives here, the model only calls them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from labkit import ops
from labkit.native.packed_weight import PackedWeight


@dataclass(frozen=True)
class Linear:
    """A layer of `weight` `[out, in]`, dense or quantized, `bias` `[out]` or none, with GELU behind it or not."""

    weight: ops.Weight
    bias: Tensor | None = None
    gelu: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """`[tokens, in]` to `[tokens, out]`."""
        weight = self.weight
        if isinstance(weight, PackedWeight) and ("linear_gelu" if self.gelu else "linear") in ops.replacements():
            weight = weight.dense  # whose function runs in the operation's place knows nothing of panels
        return (ops.linear_gelu if self.gelu else ops.linear)(x, weight, self.bias)

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the layer reads of its weight and bias."""
        weight = self.weight
        read = weight.numel() * weight.element_size() if isinstance(weight, Tensor) else weight.byte_count
        return read if self.bias is None else read + self.bias.numel() * self.bias.element_size()
