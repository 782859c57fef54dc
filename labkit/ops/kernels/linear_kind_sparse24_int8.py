"""2:4 sparse int8 weights on a GPU, where their zeros are filled in: labkit has no GPU kernel for this format."""

from __future__ import annotations

from torch import Tensor

from labkit.ops.kernels.linear_kind_int8 import Int8Kind
from labkit.weight_formats import Int8Weight, Sparse24Int8Weight


class Sparse24Int8Kind(Int8Kind):
    """The int8 kernels, for a matrix that was pruned to 2:4 before."""

    name, head_name = Sparse24Int8Weight.kind, Sparse24Int8Weight.head_kind

    def quantize(self, dense: Tensor) -> Int8Weight:
        """`Sparse24Int8Weight.quantize`, with the zeros filled in."""
        return Sparse24Int8Weight.quantize(dense).with_zeros


KIND = Sparse24Int8Kind()
