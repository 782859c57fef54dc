"""Reads a model's weights. While matrices are read, they are quantized and packed as the precision and the device require."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labkit import native
from labkit.checkpoints import Checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.model.gptj import GPTJ
from labkit.model.part import WHOLE, Part
from labkit.native.packed_weight import PackedWeight
from labkit.ops import Fp8Weight, Int4Weight, Int8Weight, Weight
from labkit.ops.torch_packed import TorchPackedWeight
from labkit.precision import compute_dtype
from labkit.torch_state import gradients_restored, undisturbed

TRIM_BYTES = 1 << 26
"""After this many bytes of dense matrices have been packed, their freed memory is returned to the system."""


@gradients_restored()
@undisturbed()
def read_model(checkpoint: Checkpoint, precision: str, device: torch.device, part: Part = WHOLE) -> GPTJ:
    """Read a checkpoint's weights into a model, one tensor at a time, so that a second copy of the model never exists.

    For a `part`, only the tensors and slices of that part are read. Matrices are quantized from float32. The head of an int4
    model is stored in int8, because a rounding error of the head directly changes which token is chosen.
    """
    dtype = compute_dtype(precision, device)
    shapes = expected_shapes(checkpoint.config)
    part.check(checkpoint.config)

    def read(name: str) -> Tensor:
        rounded = precision in ("int8", "int4", "fp8") and name.endswith("weight") and "ln_" not in name and "wte" not in name
        slices = part.slices(name, shapes[name]) or {}
        return checkpoint.read(name, device=device, dtype=torch.float32 if rounded else dtype, **slices)

    model = GPTJ.from_tensors(checkpoint.config, read, weight_store(precision, device), part)
    model.precision = precision
    return model


def weight_store(precision: str, device: torch.device) -> Callable[[str, Tensor], Weight]:
    """Returns a function `store(layer name, dense matrix)` that returns the weight to keep.

    On the CPU, `store` packs the matrix for the native library. Without the native library, `native.warn_once` prints a warning
    and quantized matrices are packed for torch's own kernels.
    """
    on_cpu = device.type == "cpu" and precision in ("fp32", "bf16", "int8", "int4")
    if on_cpu and not native.available():
        native.warn_once()

    freed = 0

    def store(name: str, dense: Tensor) -> Weight:
        nonlocal freed
        if precision == "fp8":
            return Fp8Weight.quantize(dense)
        kept: Tensor | Int8Weight | Int4Weight = dense
        if precision == "int8" or (precision == "int4" and name == "lm_head"):
            kept = Int8Weight.quantize(dense)
        elif precision == "int4":
            kept = Int4Weight.quantize(dense)
        if not on_cpu:
            return kept
        if native.available():
            weight = PackedWeight(kept)
            freed += dense.nbytes
            if freed > TRIM_BYTES:  # otherwise the allocator would keep the memory of the freed dense matrices
                native.trim_heap()
                freed = 0
            return weight
        return kept if isinstance(kept, Tensor) else TorchPackedWeight(kept)

    return store
