"""Whether a checkpoint can be converted for a peer here: memory for the model that is read, disk for the one that is made."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from labkit.checkpoints import Checkpoint
from labkit.errors import InsufficientResources
from labkit.host_memory import available_memory

HEADROOM = 1.25
"""What reading and tracing take, over the weights themselves: fused projections, buffers of the file that is written."""


def check_room(checkpoint: Checkpoint, read: torch.dtype, written_bits: float, folder: Path) -> None:
    """Raise `InsufficientResources` when the weights read in `read`, and written with so many bits each, do not fit.

    Measured with a model of 1.0 B parameters; weights that are written in fewer bits are in memory beside those read.
    """
    count = checkpoint.config.parameter_count
    written = count * written_bits / 8
    memory = count * read.itemsize * HEADROOM + (written if written_bits < read.itemsize * 8 else 0)
    free, left = available_memory(), shutil.disk_usage(folder).free
    if memory > free:
        raise InsufficientResources(
            f"converting {checkpoint.name} takes {memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        )
    disk = 1.1 * written + (count * read.itemsize if written_bits < read.itemsize * 8 else 0)
    if disk > left:
        raise InsufficientResources(
            f"converting {checkpoint.name} takes {disk / 1e9:.1f} GB of disk, {left / 1e9:.1f} GB are free in {folder}; "
            "TMPDIR names another folder"
        )
