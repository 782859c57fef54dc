"""Opens models for compression. Only models with dense weights can be compressed."""

from __future__ import annotations

from pathlib import Path

from labkit.checkpoints import Checkpoint, is_quantized, open_checkpoint
from labkit.errors import InvalidRequest


def open_dense(source: str | Path, seed: int) -> Checkpoint:
    """Open a checkpoint. Raises `InvalidRequest` if its weights are already quantized."""
    if is_quantized(source):
        raise InvalidRequest(f"{source} is already quantized; give the model with dense weights")
    return open_checkpoint(source, seed=seed)
