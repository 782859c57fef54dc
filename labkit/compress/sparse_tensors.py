"""Turns pruned matrices into the tensors of files: kept numbers beside a bitmask (`labkit.checkpoints.sparse_matrix`)."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.checkpoints.bit_packing import pack
from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.checkpoints.sparse_matrix import pack_mask


def sparse_tensors(module: str, weight: Tensor, mask: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The format "sparse-24-bitmask": `compressed`, `bitmask` and `shape`. `mask` keeps two of every four."""
    return {
        f"{module}.compressed": _kept(weight, mask).to(dtype),
        f"{module}.bitmask": pack_mask(mask),
        f"{module}.shape": torch.tensor(weight.shape, dtype=torch.int64, device="cpu").reshape(-1, 1),
    }


def integer_tensors(module: str, matrix: IntegerWeight, mask: Tensor) -> dict[str, Tensor]:
    """Integers of the places that a mask keeps, with their scales: int8 as they are, other numbers of bits packed."""
    kept, bits = _kept(matrix.values, mask), matrix.scheme.bits
    shape = torch.tensor(matrix.shape, dtype=torch.int64, device="cpu")
    found = {f"{module}.bitmask": pack_mask(mask), f"{module}.weight_scale": matrix.scales.contiguous()}
    if bits == 8:
        return found | {f"{module}.compressed": kept, f"{module}.shape": shape.reshape(-1, 1)}
    return found | {
        f"{module}.weight_packed": pack(kept.to(torch.int16) + (1 << (bits - 1)), bits),
        f"{module}.weight_shape": shape,
    }


def _kept(numbers: Tensor, mask: Tensor) -> Tensor:
    return numbers[mask].view(len(numbers), -1).contiguous()
