"""Turns quantized tensors into the tensors and settings of a compressed-tensors directory in the format "pack-quantized".

The tensors' names and layouts come from https://github.com/vllm-project/compressed-tensors: `weight_packed`, `weight_scale`,
`weight_shape`, and `weight_zero_point` if the scheme is not symmetric.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.bit_packing import pack
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.checkpoints.quantization_config import COMPRESSED_TENSORS, PACK_QUANTIZED
from labkit.compress.layer import QuantizedTensors
from labkit.compress.method import HEAD, Method

BLOCK_MATRICES = r"re:transformer\.h\.\d+\.(attn\.(q|k|v|out)_proj|mlp\.fc_(in|out))$"
"""The names of the blocks' matrices, as a pattern of compressed-tensors."""


def packed_tensors(found: QuantizedTensors) -> dict[str, Tensor]:
    """The tensors to store, under the names in `found`. Each matrix becomes several tensors."""
    tensors = {name: tensor.contiguous() for name, tensor in found.dense.items()}
    for module, matrix in found.matrices.items():
        tensors |= {f"{module}.{part}": tensor for part, tensor in _matrix(matrix).items()}
    return tensors


def _matrix(matrix: IntegerWeight) -> dict[str, Tensor]:
    bits, half = matrix.scheme.bits, 1 << (matrix.scheme.bits - 1)
    parts = {
        "weight_packed": pack(matrix.values.to(torch.int16) + half, bits),
        "weight_scale": matrix.scales.contiguous(),
        "weight_shape": torch.tensor(matrix.shape, dtype=torch.int64, device="cpu"),
    }
    if matrix.zero_points is not None:
        parts["weight_zero_point"] = pack((matrix.zero_points.to(torch.int16) + half).t(), bits).t().contiguous()
    return parts


def quantization_config(method: Method) -> dict[str, Any]:
    """The `quantization_config` of `config.json`: one group for each scheme of the blocks, and one for the head."""
    actorder = "weight" if method.algorithm == "gptq" and method.activation_order else None
    targets: dict[IntegerScheme, list[str]] = {}
    for module, scheme in method.schemes.items():
        targets.setdefault(scheme, []).append(module)
    blocks = [packed_group(names, scheme, actorder) for scheme, names in (targets or {method.scheme: [BLOCK_MATRICES]}).items()]
    return {
        "quant_method": COMPRESSED_TENSORS,
        "format": PACK_QUANTIZED,
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{number}": group for number, group in enumerate([*blocks, packed_group(["lm_head"], HEAD, None)])
        },
        "ignore": [],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def packed_group(targets: list[str], scheme: IntegerScheme, actorder: str | None) -> dict[str, Any]:
    """Build the entry of `config_groups` for the matrices `targets`."""
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": "channel" if scheme.group_size is None else "group",
        "group_size": scheme.group_size,
        "dynamic": False,
        "actorder": actorder,
    }
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
        "format": PACK_QUANTIZED,
    }
