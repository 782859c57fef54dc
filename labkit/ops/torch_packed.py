"""Quantized matrices for CPUs where the native library is not available. The matrices are packed for torch's own kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.ops.gelu import gelu as apply_gelu
from labkit.weight_formats import Int4Weight, Int8Weight

ROWS, INPUTS = 16, 32
INT4_GROUPS = 256, 128, 64, 32
"""The group sizes that torch's int4 kernel reads."""
TORCH_PACKS = Int8Weight, Int4Weight
"""The weight formats that torch's own kernels can multiply."""


class TorchPackedWeight:
    """A quantized `[out, in]` matrix for torch's own matrix products with quantized weights, which run in bfloat16.

    int8 matrices are multiplied by `_weight_int8pack_mm`. int4 matrices are multiplied by `_weight_int4pack_mm_for_cpu`, which
    reads groups of `INT4_GROUPS` weights. Another multiple of 32, such as 96, is divided into smaller groups with the same
    scale. Both kernels take bfloat16 scales, so the scales are rounded to bfloat16. Rows and inputs are padded, because the
    kernels crash on some sizes. The constructor raises `InvalidRequest` for int4 groups that are not a multiple of 32.
    """

    def __init__(self, weight: Int8Weight | Int4Weight) -> None:
        self.shape = weight.shape
        if weight.group_size % INT4_GROUPS[-1]:
            raise InvalidRequest(
                f"int4 weights with groups of {weight.group_size} cannot be packed; multiples of 32 are accepted"
            )
        self._group = next(size for size in INT4_GROUPS if weight.group_size % size == 0) if weight.group_size else 0
        self._padding = -weight.shape[1] % (weight.group_size or INPUTS)
        missing = -weight.shape[0] % ROWS
        scales = F.pad(weight.scales.bfloat16().t(), (0, missing)).contiguous()  # [out] or [groups, out]
        if isinstance(weight, Int8Weight):
            self._values, self._scales = F.pad(weight.values, (0, self._padding, 0, missing)), scales
            return
        scales = scales.repeat_interleave(weight.group_size // self._group, 0)
        nibbles = F.pad(weight.nibbles.int(), (0, 0, 0, missing), value=8)
        self._values = torch._convert_weight_to_int4pack_for_cpu(nibbles, 1)
        self._scales = torch.stack((scales, torch.zeros_like(scales)), dim=-1)  # pairs of a scale and a zero point of 0

    @property
    def byte_count(self) -> int:
        """The bytes that are read each time the matrix is used."""
        return self._values.numel() * self._values.element_size() + 2 * self._scales.numel()

    def multiply(self, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """Return x weight^T + bias for `x` `[tokens, in]`. If `gelu` is true, GELU is applied to the sum.

        The result has the dtype of `x`; the product is computed in bfloat16.
        """
        rounded = F.pad(x.bfloat16(), (0, self._padding)).contiguous()
        if self._group:
            product = torch._weight_int4pack_mm_for_cpu(rounded, self._values, self._group, self._scales)
        else:
            product = torch._weight_int8pack_mm(rounded, self._values, self._scales)
        product = product[:, : self.shape[0]]
        out = (product if bias is None else product + bias).to(x.dtype)
        return apply_gelu(out) if gelu else out

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The dense `[out, in]` matrix, computed as a product with the identity matrix. The values are rounded to bfloat16."""
        return self.multiply(torch.eye(self.shape[1], dtype=torch.bfloat16, device="cpu")).T.to(dtype)
