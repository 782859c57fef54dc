"""Chooses the precision in which a checkpoint's matrices are held in memory. Some checkpoints already store integers."""

from __future__ import annotations

import warnings

import torch

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.errors import InvalidRequest
from labkit.precision import DTYPES, as_precision


def precision_for(checkpoint: Checkpoint, wanted: str | torch.dtype | None, device: torch.device) -> str:
    """Choose the precision for a checkpoint on a device. `wanted` is the precision that the user chose, or None.

    If labkit has kernels for the integers that a checkpoint stores, the integers are kept. If labkit has no such kernels, the
    checkpoint is dequantized to bf16 on the CPU and to fp16 on a GPU, and a warning says so. If the user chose a dense
    precision, the checkpoint is dequantized to this precision. Raises `InvalidRequest` if the user chose an integer format that
    is not the stored format.
    """
    if not isinstance(checkpoint, QuantizedDirectoryCheckpoint):
        return as_precision(wanted, device)
    if wanted is not None:
        chosen = as_precision(wanted, device)
        check_stored(checkpoint, chosen)
        return chosen
    stored = checkpoint.kernel_precision
    if stored is not None:
        return stored
    dense = "fp16" if device.type == "cuda" else "bf16"
    warnings.warn(
        f"labkit has no kernels for the weights of {checkpoint.name} ({checkpoint.schemes}), so they are dequantized to "
        f"{dense}: the model has the quality of the stored weights, but the memory and the speed of a model in this precision",
        stacklevel=2,
    )
    return dense


def check_stored(checkpoint: Checkpoint, precision: str) -> None:
    """Raise `InvalidRequest` if the checkpoint stores integers that would have to be quantized again to get this precision."""
    if not isinstance(checkpoint, QuantizedDirectoryCheckpoint) or precision in DTYPES:
        return
    stored = checkpoint.kernel_precision
    if stored != precision:
        accepted = f"{stored} or one of {', '.join(DTYPES)}" if stored else ", ".join(DTYPES)
        raise InvalidRequest(
            f"precision {precision} was asked for, but {checkpoint.name} is quantized already ({checkpoint.schemes}); "
            f"{accepted} is accepted, or no precision at all"
        )
