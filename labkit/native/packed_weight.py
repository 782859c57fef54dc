"""Packs a dense or quantized matrix for the CPU kernels, in panels of sixteen output rows."""

from __future__ import annotations

import functools
import threading
from ctypes import byref

import torch
from torch import Tensor

from labkit.native.library import (
    BF16,
    E4M3,
    E5M2,
    F32,
    INT4,
    INT8,
    SPARSE24,
    SPARSE24_INT8,
    TYPES,
    W8A8,
    WeightStruct,
    Workspace,
    advise_large_pages,
    library,
    native_type,
    pointer,
    threads,
)
from labkit.native.untouched import untouched
from labkit.weight_formats import CpuParts, QuantizedWeight

_NAMES = {
    F32: "fp32",
    BF16: "bf16",
    INT8: "int8",
    INT4: "int4",
    W8A8: "w8a8",
    E4M3: "fp8",
    E5M2: "fp8_e5m2",
    SPARSE24: "sparse24",
    SPARSE24_INT8: "sparse24_int8",
}
"""The name of each type of packed matrix. For a quantized matrix, this is the name of its format (`QuantizedWeight.kind`)."""
_NUMBERS = {name: number for number, name in _NAMES.items()}
PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""For each code of a 2:4 sparse matrix, the two columns out of four whose values are stored."""
_CPU = torch.device("cpu")
_local = threading.local()


class PackedWeight:
    """A packed `[out, in]` matrix; `precision` is fp32, bf16, or the name of a quantized format.

    A `PackedWeight` is made from a dense float32 or bfloat16 matrix, or from a quantized matrix that has `cpu_parts`. For a
    format that rounds inputs, `input_scale` is the fixed scale of the inputs; 0 means that each row of inputs gets its own
    scale.
    """

    def __init__(self, weight: Tensor | QuantizedWeight) -> None:
        lib = library()
        self.shape = (int(weight.shape[0]), int(weight.shape[1]))
        out_features, in_features = self.shape
        self.type, parts = _parts(weight)
        self.input_scale = parts.input_scale
        self.data = _large(lib.lk_packed_bytes(self.type, out_features, in_features))
        self.scales = untouched((lib.lk_scale_bytes(self.type, out_features, in_features),), torch.uint8, _CPU)
        lib.lk_pack(
            self.type,
            out_features,
            in_features,
            pointer(parts.values, parts.dtype, parts.shape),
            TYPES.get(parts.dtype, self.type),
            pointer(parts.scales, parts.scales_dtype, parts.scales_shape),
            parts.group_size,
            pointer(self.data, torch.uint8, self.data.shape),
            pointer(self.scales, torch.uint8, self.scales.shape),
            threads(),
        )
        self._addresses = pointer(self.data, torch.uint8, self.data.shape), pointer(self.scales, torch.uint8, self.scales.shape)

    @property
    def precision(self) -> str:
        """The precision in which the values are stored."""
        return _NAMES[self.type]

    @property
    def byte_count(self) -> int:
        """The bytes that one multiplication with the matrix reads, padding included."""
        return self.data.numel() + self.scales.numel()

    def struct(self, bias: Tensor | None = None) -> WeightStruct:
        """Return the argument for a C call. `bias` is `[out]` float32. The caller must keep this object and `bias` alive."""
        data, scales = self._addresses
        bias_address = pointer(bias, torch.float32, self.shape[:1])
        return WeightStruct(
            self.type, *self.shape, data, scales if self.scales.numel() else None, bias_address, self.input_scale
        )

    def multiply(self, x: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
        """Compute x weight^T + bias, then GELU if `gelu` is set, for `x` `[tokens, in]` in float32 or bfloat16.

        The result has the dtype of `x`.
        """
        x = x.contiguous()
        out = x.new_empty(x.shape[0], self.shape[0])
        wide = None if bias is None else bias.float()
        source, target = pointer(x, x.dtype, (len(x), self.shape[1])), pointer(out, x.dtype, (len(x), self.shape[0]))
        scratch = workspace().handle
        library().lk_linear(byref(self.struct(wide)), native_type(x), source, len(x), gelu, target, scratch, threads())
        return out

    @functools.cached_property
    def dense(self) -> Tensor:
        """The result of `dequantize()`, computed once and kept."""
        return self.dequantize(torch.bfloat16 if self.type == BF16 else torch.float32)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a dense `[out, in]` matrix with the same values. This is slow; use it only for references and tests."""
        out_features, in_features = self.shape
        panels = (out_features + 15) // 16
        if self.type == SPARSE24:
            dense = self._dense_of_codes(panels, self.data.view(torch.bfloat16), self.scales)
            return dense[:out_features, :in_features].to(dtype)
        if self.type == SPARSE24_INT8:
            scales, codes = self.scales[: panels * 64].view(torch.float32), self.scales[panels * 64 :]
            dense = self._dense_of_codes(panels, self.data.view(torch.int8), codes) * scales[:, None]
            return dense[:out_features, :in_features].to(dtype)
        if self.type in (F32, BF16, E4M3, E5M2):
            kind, unit = (torch.float32, 1) if self.type == F32 else (torch.bfloat16, 2)
            parts = self.data.view(kind).view(panels, -1, 16, unit)
            dense = parts.permute(0, 2, 1, 3).reshape(panels * 16, -1).float()
        elif self.type in (INT8, W8A8):
            parts = self.data.view(panels, -1, 16, 4).permute(0, 2, 1, 3).reshape(panels * 16, -1)
            dense = parts.float() - 128
        else:
            parts = self.data.view(panels, -1, 4, 16, 4)
            steps = torch.stack((parts & 15, parts >> 4), dim=3).flatten(2, 3)  # [panels, groups, 8 steps, 16, 4]
            values = steps.permute(0, 3, 1, 2, 4).reshape(panels * 16, -1, 32).float() - 8
            scales = self.scales.view(torch.float16).view(panels, -1, 16).transpose(1, 2).reshape(panels * 16, -1, 1)
            dense = (values * scales.float()).flatten(1)
        if self.type in (INT8, W8A8, E4M3, E5M2):
            dense = dense * self.scales.view(torch.float32)[:, None]
        return dense[:out_features, :in_features].to(dtype)

    def _dense_of_codes(self, panels: int, stored: Tensor, codes: Tensor) -> Tensor:
        """Return the dense form of a 2:4 sparse matrix, with padding. The codes say which two of four columns have values."""
        neighbours = 4 // stored.element_size()  # how many numbers of a row are neighbours in memory
        values = stored.view(panels, -1, 16, neighbours).transpose(1, 2).reshape(panels * 16, -1, 2).float()
        words = codes.view(torch.int32).view(panels, -1, 16).transpose(1, 2).reshape(panels * 16, -1, 1)
        pairs = (words >> torch.arange(0, 32, 4, dtype=torch.int32, device=_CPU) & 15).flatten(1).long()
        places = torch.tensor(PAIRS, dtype=torch.int64, device=_CPU)[pairs]
        return torch.zeros(*pairs.shape, 4, dtype=torch.float32, device=_CPU).scatter_(-1, places, values).flatten(1)


def _parts(weight: Tensor | QuantizedWeight) -> tuple[int, CpuParts]:
    """Return the number of the packed matrix's type, and the parts to pack."""
    if isinstance(weight, Tensor):
        if weight.dtype not in TYPES:
            raise ValueError(f"a weight of {weight.dtype} cannot be packed; float32 and bfloat16 are accepted")
        return TYPES[weight.dtype], CpuParts(weight.contiguous(), weight.dtype, weight.shape)
    return _NUMBERS[weight.kind], weight.cpu_parts


def _large(byte_count: int) -> Tensor:
    """Allocate memory without writing to it. The memory is in large pages if the system offers them."""
    memory = untouched((byte_count,), torch.uint8, _CPU)
    advise_large_pages(memory)
    return memory


def workspace() -> Workspace:
    """Return the workspace of this thread.

    Each thread needs its own workspace, because ctypes releases Python's lock during a call.
    """
    found: Workspace | None = getattr(_local, "workspace", None)
    if found is None:
        found = _local.workspace = Workspace()
    return found
