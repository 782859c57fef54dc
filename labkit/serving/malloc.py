"""Settings of glibc's allocator, for a server and for the processes of its models."""

from __future__ import annotations

import ctypes
import os

_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"

GIVE_BACK = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
    _THRESHOLD: str(2**16),  # gRPC reads a large request in blocks of 64 KiB, which would otherwise stay allocated
}
"""Environment variables that make the allocator return the memory of a huge request to the system when the request is done."""

KEPT_BYTES = 2**20
M_MMAP_THRESHOLD = -3  # from malloc.h


def keep_blocks() -> None:
    """Let the allocator keep freed blocks of less than `KEPT_BYTES`, because every step of an engine needs blocks of the same
    sizes.

    Increases the threshold that `GIVE_BACK` has set, for this process and for the processes that it starts. Changes nothing if
    the caller's environment sets another threshold.
    """
    if os.environ.get(_THRESHOLD) == GIVE_BACK[_THRESHOLD]:
        os.environ[_THRESHOLD] = str(KEPT_BYTES)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
