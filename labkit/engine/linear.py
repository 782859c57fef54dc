"""Linear layers: what a weight is (dense now; sharded or quantized later) lives here, the model only calls them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from labkit import ops


@dataclass(frozen=True)
class Linear:
    """A dense layer: `weight` `[out, in]` and `bias` `[out]` or none, in the engine's dtype."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`[tokens, in]` to `[tokens, out]`."""
        return ops.linear(x, self.weight, self.bias)

    @property
    def byte_count(self) -> int:
        """Bytes that one use of the layer reads of its weight and bias."""
        return sum(t.numel() * t.element_size() for t in (self.weight, self.bias) if t is not None)
