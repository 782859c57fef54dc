"""A digest of a checkpoint's weights, which tells two models apart without reading a large model as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator

from labkit.checkpoints.checkpoint import Checkpoint
from labkit.errors import CheckpointError

WHOLE_BYTES = 256 * 2**20
"""If all weights together have at most this many bytes, every byte is part of the digest."""
APART_BYTES = 2**20
"""In a larger model, tensors of at most this many bytes are read whole. Of a longer tensor, one block per MiB is read."""
BLOCK_BYTES = 4096
"""The size of such a block; the last block of each tensor is read too."""


def weights_digest(checkpoint: Checkpoint) -> str:
    """The SHA-256, in hexadecimal, of the config and of the stored weights, with their names, dtypes and shapes.

    Of a large model, only blocks that are spread evenly over every tensor are read. Models of different trainings differ in
    almost every block; a change of a few values outside these blocks is not noticed. Generated weights have no files: only
    their config is part of the digest, so compare their name and seed too. Raises `CheckpointError` if a file cannot be read or
    has become too short.
    """
    digest = hashlib.sha256(json.dumps(checkpoint.config.to_dict(), sort_keys=True).encode())
    files = [(file, sorted({**file.entries, **file.integers}.items())) for file in checkpoint.weight_files()]
    is_small = sum(entry.byte_count for _, entries in files for _, entry in entries) <= WHOLE_BYTES
    for file, entries in files:
        try:
            with file.path.open("rb") as stream:
                for name, entry in entries:
                    digest.update(json.dumps([name, str(entry.dtype), entry.shape]).encode())
                    for begin, length in _blocks(entry.byte_count, is_small):
                        block = os.pread(stream.fileno(), length, entry.offset + begin)
                        if len(block) < length:
                            raise CheckpointError(f"{file.path} ended inside {name}: the file was cut while it was read")
                        digest.update(block)
        except OSError as error:
            raise CheckpointError(f"cannot read {file.path}: {error}") from error
    return digest.hexdigest()


def _blocks(size: int, is_small: bool) -> Iterator[tuple[int, int]]:
    """The offset and the length of each block that is read of a tensor of `size` bytes."""
    if is_small or size <= APART_BYTES:
        for begin in range(0, size, APART_BYTES):
            yield begin, min(APART_BYTES, size - begin)
        return
    for begin in (*range(0, size - BLOCK_BYTES, APART_BYTES), size - BLOCK_BYTES):
        yield begin, BLOCK_BYTES
