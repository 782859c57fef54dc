"""int8 weights with a scale for each output row. The format does not round activations."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from labkit.weight_formats.quantized_weight import RowScaledWeight


class Int8Weight(RowScaledWeight):
    """A matrix in int8, -127 to 127, with a scale for each output row.

    The native CPU kernels round each 128 inputs of a token to int8, with one scale. Other kernels do not round the inputs.
    """

    kind: ClassVar[str] = "int8"
    head_kind: ClassVar[str] = "int8"

    @classmethod
    def quantize(cls, weight: Tensor) -> Self:
        """Round a dense `[out, in]` matrix to nearest; the largest magnitude of each row becomes 127."""
        wide = weight.float()
        scales = wide.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny * 127) / 127
        return cls((wide / scales[:, None]).round_().to(torch.int8), scales)
