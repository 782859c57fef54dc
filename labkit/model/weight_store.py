"""Reads a model's weights. Each matrix is quantized and packed as it is read, if the precision and the device require it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from labkit import native
from labkit.checkpoints import Checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.eight_bit_matrix import join_rows, part_of
from labkit.checkpoints.integer_weight import IntegerWeight, stack
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.checkpoints.stored_matrix import StoredWeight
from labkit.errors import InvalidRequest
from labkit.model.gptj import GPTJ
from labkit.model.part import WHOLE, Part
from labkit.model.stored_precision import check_stored
from labkit.native.library import TYPES
from labkit.native.packed_weight import PackedWeight
from labkit.ops import Weight
from labkit.ops.torch_packed import TORCH_PACKS, TorchPackedWeight
from labkit.precision import DTYPES, compute_dtype
from labkit.torch_state import gradients_restored, undisturbed
from labkit.weight_formats import (
    FORMATS,
    QuantizedWeight,
    RowScaledWeight,
    Sparse24Int8Weight,
    Sparse24Weight,
    sparse24,
    sparse24_int8,
)

TRIM_BYTES = 1 << 26
"""After this many bytes of dense matrices have been packed, their freed memory is returned to the system."""


@gradients_restored()
@undisturbed()
def read_model(checkpoint: Checkpoint, precision: str, device: torch.device, part: Part = WHOLE) -> GPTJ:
    """Read a checkpoint's weights into a model, one tensor at a time, so that a second copy of the model never exists.

    Only the tensors and slices of `part` are read. A matrix that is to be quantized is read as float32. The head of an int4
    model is stored in int8, because a rounding error in the head directly changes which token is chosen. If a checkpoint stores
    matrices as integers, the model keeps these integers (`stored_precision`).
    """
    dtype = compute_dtype(precision, device)
    shapes = expected_shapes(checkpoint.config)
    part.check(checkpoint.config)
    check_stored(checkpoint, precision)

    def read(name: str) -> Tensor:
        rounded = precision in FORMATS and name.endswith("weight") and "ln_" not in name and "wte" not in name
        slices = part.slices(name, shapes[name]) or {}
        return checkpoint.read(name, device=device, dtype=torch.float32 if rounded else dtype, **slices)

    matrix = None
    if isinstance(checkpoint, QuantizedDirectoryCheckpoint) and precision in FORMATS:
        matrix = _stored_matrices(checkpoint, precision, device, part)
    model = GPTJ.from_tensors(checkpoint.config, read, weight_store(precision, device), part, matrix)
    model.precision = precision
    return model


def weight_store(precision: str, device: torch.device) -> Callable[[str, Tensor], Weight]:
    """Return a function `store(layer name, dense matrix)` that returns the weight to keep.

    On the CPU, `store` packs the matrix for the native library. If the native library is missing, `native.warn_once` prints a
    warning, and quantized matrices are packed for torch's own kernels.
    """
    pack, dtype = _packer(precision, device), compute_dtype(precision, device)

    def store(name: str, dense: Tensor) -> Weight:
        form = FORMATS.get(precision)
        if form is not None and name == "lm_head":
            form = FORMATS.get(form.head_kind)
        return pack(dense.to(dtype) if form is None else form.quantize(dense), dense.nbytes)

    return store


def _packer(precision: str, device: torch.device) -> Callable[[Tensor | QuantizedWeight, int], Weight]:
    """Return a function `pack(weight, bytes)` that packs a weight for the device's kernels. Packing frees `bytes` bytes."""
    on_cpu = device.type == "cpu" and (precision in FORMATS or DTYPES[precision] in TYPES)
    if on_cpu and not native.available():
        native.warn_once()

    freed = 0

    def pack(kept: Tensor | QuantizedWeight, byte_count: int) -> Weight:
        nonlocal freed
        if isinstance(kept, Sparse24Int8Weight) and not (on_cpu and native.available()):
            kept = kept.with_zeros
        if not on_cpu:
            return kept
        if native.available():
            weight = PackedWeight(kept)
            freed += byte_count
            if freed > TRIM_BYTES:  # otherwise the allocator would keep the memory of the freed dense matrices
                native.trim_heap()
                freed = 0
            return weight
        return TorchPackedWeight(kept) if isinstance(kept, TORCH_PACKS) else kept

    return pack


def _stored_matrices(
    checkpoint: QuantizedDirectoryCheckpoint, precision: str, device: torch.device, part: Part
) -> Callable[[str, Sequence[str]], Weight]:
    """Return the function `matrix` for `GPTJ.from_tensors`, which reads matrices as they are stored."""
    shapes = expected_shapes(checkpoint.config)
    dtype, pack = compute_dtype(precision, device), _packer(precision, device)

    def matrix(layer: str, names: Sequence[str]) -> Weight:
        slices = [part.slices(name, shapes[name]) or {} for name in names]
        found = [checkpoint.integers(name, **each) for name, each in zip(names, slices, strict=True)]
        if found[0] is None:  # the quantizer may have left the head dense
            return pack(checkpoint.read(names[0], device=device, dtype=dtype, **slices[0]), 0)
        kept = _for_kernels([each for each in found if each is not None], device, dtype)
        if kept is None:
            raise InvalidRequest(
                f"{layer} of {checkpoint.name} cannot be split over {part.shards} ranks as it is stored "
                f"({checkpoint.schemes}); use fewer ranks, or dtype bf16 to dequantize it"
            )
        return pack(kept, kept.byte_count)

    return matrix


def _for_kernels(parts: Sequence[StoredWeight], device: torch.device, dtype: torch.dtype) -> QuantizedWeight | None:
    """Stack stored matrices and convert them to the format of the device's kernels. Returns None if no kernel can read them."""
    sparse = [part.to(device, dtype) for part in parts if isinstance(part, Sparse24Weight)]
    if sparse:
        return sparse24.stack_rows(sparse)
    sparse_integers = [part.to(device) for part in parts if isinstance(part, Sparse24Int8Weight)]
    if sparse_integers:
        return sparse24_int8.stack_rows(sparse_integers)
    integers = [part.to(device) for part in parts if isinstance(part, IntegerWeight)]
    if integers:
        return stack(integers).for_kernels()
    return join_rows([part_of(part, slice(None), device) for part in parts if isinstance(part, RowScaledWeight)])
