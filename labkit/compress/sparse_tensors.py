"""Turns pruned matrices into the tensors and settings to store: kept weights and a bitmask (`checkpoints.sparse_matrix`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.bit_packing import pack
from labkit.checkpoints.eight_bit_scheme import INT_QUANTIZED
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.checkpoints.quantization_config import COMPRESSED_TENSORS, SPARSE_24
from labkit.checkpoints.sparse_matrix import pack_mask
from labkit.compress.pack_quantized import BLOCK_MATRICES, packed_group
from labkit.compress.rounded_inputs import eight_bit_group


def sparse_tensors(module: str, weight: Tensor, mask: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a matrix in the format "sparse-24-bitmask". `mask` keeps two of every four weights."""
    return {
        f"{module}.compressed": _kept(weight, mask).to(dtype),
        f"{module}.bitmask": pack_mask(mask),
        f"{module}.shape": torch.tensor(weight.shape, dtype=torch.int64, device="cpu").reshape(-1, 1),
    }


def integer_tensors(module: str, matrix: IntegerWeight, mask: Tensor) -> dict[str, Tensor]:
    """The tensors of a quantized matrix: the integers that `mask` keeps, the bitmask, and the scales.

    8-bit integers are stored as int8; smaller integers are packed.
    """
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


def quantization_config(scheme: IntegerScheme | None) -> dict[str, Any]:
    """The `quantization_config` of `config.json`: a `sparsity_config` for the blocks, and config groups if there are integers.

    `scheme` says how the kept weights are stored; None keeps them in floating point. If the kept weights are integers, the head
    is stored in int8.
    """
    found: dict[str, Any] = {
        "quant_method": COMPRESSED_TENSORS,
        "format": "dense",
        "quantization_status": "compressed",
        "config_groups": {},
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        "sparsity_config": {
            "format": SPARSE_24,
            "sparsity_structure": "2:4",
            "global_sparsity": 0.5,
            "targets": [BLOCK_MATRICES],
            "ignore": ["lm_head"],
            "registry_requires_subclass": False,
        },
    }
    if scheme is None:
        return found
    head = eight_bit_group(["lm_head"], INT_QUANTIZED, None, "row")
    if scheme.bits == 8:
        groups, form = [eight_bit_group([BLOCK_MATRICES], INT_QUANTIZED, None, "row"), head], INT_QUANTIZED
    else:
        groups, form = [packed_group([BLOCK_MATRICES], scheme, None), head], "mixed-precision"
    return found | {
        "format": form,
        "config_groups": {f"group_{number}": each for number, each in enumerate(groups)},
        "ignore": [],
    }
