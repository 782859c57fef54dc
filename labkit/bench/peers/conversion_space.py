"""Checks that memory and disk space suffice to convert a checkpoint for a peer, and computes a digest of the checkpoint."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import torch

from labkit.checkpoints import Checkpoint
from labkit.errors import InsufficientResources
from labkit.host_memory import available_memory

HEADROOM = 1.25
"""The memory that reading and tracing a model needs, divided by the bytes of its weights.

The quotient is above 1 because fused projections and write buffers also need memory.
"""


def check_conversion_fits(checkpoint: Checkpoint, read: torch.dtype, written_bits: float, folder: Path) -> None:
    """Raise `InsufficientResources` if the conversion does not fit into memory or onto the disk.

    The weights are read in the dtype `read` and written with `written_bits` bits each. If weights are rounded to fewer bits,
    the rounded weights and the weights that were read are in memory at the same time. The factors in the code were measured
    with a model of 1.0 B parameters.
    """
    count = checkpoint.config.parameter_count
    written = count * written_bits / 8
    memory = count * read.itemsize * HEADROOM + (written if written_bits < read.itemsize * 8 else 0)
    free = available_memory()
    if memory > free:
        raise InsufficientResources(
            f"converting {checkpoint.name} needs {memory / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free"
        )
    check_disk(checkpoint, 1.1 * written + (count * read.itemsize if written_bits < read.itemsize * 8 else 0), folder, "TMPDIR")


def check_disk(checkpoint: Checkpoint, needed: float, folder: Path, variable: str) -> None:
    """Raise `InsufficientResources` if the disk of `folder` has fewer than `needed` bytes left.

    `variable` is the environment variable that selects another folder.
    """
    left = shutil.disk_usage(folder).free
    if needed > left:
        raise InsufficientResources(
            f"converting {checkpoint.name} needs {needed / 1e9:.1f} GB of disk; {left / 1e9:.1f} GB are free in {folder}; "
            f"set {variable} to use another folder"
        )


def checkpoint_digest(checkpoint: Checkpoint, *programs: object) -> str:
    """Return a digest of the model and of `programs`, which identify the programs that convert it, for example by version.

    Weight files are identified by their names, sizes and times, because reading them would take as long as converting.
    """
    parts: list[object] = [*programs, checkpoint.name, checkpoint.config, checkpoint.weight_dtype]
    if checkpoint.path is None:
        parts.append(getattr(checkpoint, "seed", None))  # synthetic weights depend on their seed
    else:
        for file in sorted(path for path in checkpoint.path.rglob("*") if path.is_file()):
            parts += [str(file.relative_to(checkpoint.path)), file.stat().st_size, file.stat().st_mtime_ns]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
