"""Whether a checkpoint can be converted for a peer here: memory for the model that is read, disk for the one that is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import torch

from labkit.checkpoints import Checkpoint
from labkit.errors import InsufficientResources

HEADROOM = 1.25
"""What a conversion takes besides the weights: fused copies of projections, buffers of the file that is written."""


def check_room(checkpoint: Checkpoint, read: torch.dtype, written_bits: float, folder: Path) -> None:
    """Raise `InsufficientResources` when the weights read in `read`, or written with so many bits each, do not fit."""
    count = checkpoint.config.parameter_count
    memory, disk = count * read.itemsize * HEADROOM, count * written_bits / 8 * 1.1
    free, left = psutil.virtual_memory().available, shutil.disk_usage(folder).free
    if memory > free:
        raise InsufficientResources(
            f"converting {checkpoint.name} takes {memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        )
    if disk > left:
        raise InsufficientResources(
            f"the converted {checkpoint.name} takes {disk / 1e9:.1f} GB of disk, {left / 1e9:.1f} GB are free in {folder}; "
            "TMPDIR names another folder"
        )
