"""Multiplies by 2:4 sparse weights on a GPU. torch does this on sparse tensor cores (with cuSPARSELt or CUTLASS)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.errors import NotAvailable
from labkit.ops.gelu import gelu as apply_gelu
from labkit.ops.kernels.linear_kind import LinearKind
from labkit.ops.kernels.linear_plan import Plan
from labkit.weight_formats import Sparse24Weight

SPARSE_ARCH = 80
"""The first compute capability whose tensor cores skip the pruned weights (Ampere)."""


class Sparse24Kind(LinearKind):
    """The kind of `Sparse24Weight`. torch multiplies any number of rows by such a weight, so there is only one plan."""

    name, head_name, streamed_rows = Sparse24Weight.kind, Sparse24Weight.head_kind, 0

    def quantize(self, dense: Tensor) -> Sparse24Weight:
        """Call `Sparse24Weight.quantize`. The values get the dtype of `dense`."""
        return Sparse24Weight.quantize(dense).to(dense.device, dense.dtype)

    def check(self, arch: int) -> None:
        """Raise `NotAvailable` for a GPU without sparse tensor cores."""
        if arch < SPARSE_ARCH:
            raise NotAvailable(
                f"a weight is 2:4 sparse, which needs a GPU of compute capability 8.0 or above; this one has {arch / 10}: "
                "load the model with dtype fp16, which fills in the zeros"
            )

    def tiles(self, rows: int, dtype: torch.dtype, group: int, arch: int) -> list[dict[str, int]]:
        """Return no tiles, because labkit has no GPU kernel for this format."""
        return []

    def run(self, plan: Plan, x: Tensor, weight: Sparse24Weight, bias: Tensor | None, *, gelu: bool) -> Tensor:
        """Multiply with torch. In float32 and on the CPU, torch has no sparse multiplication, so the weight is made dense."""
        sparse = x.device.type == "cuda" and x.dtype in (torch.float16, torch.bfloat16)
        found = F.linear(x, weight.semi_structured if sparse else weight.dequantize(x.dtype), bias)
        return apply_gelu(found) if gelu else found


KIND = Sparse24Kind()
