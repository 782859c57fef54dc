"""What glibc's allocator does in a server and in the processes of its models."""

from __future__ import annotations

import ctypes
import os

_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"

GIVE_BACK = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": str(2**20),
    _THRESHOLD: str(2**16),  # gRPC reads a large request in blocks of 64 KiB; between small ones they would stay
}
"""The environment in which what a huge request took goes back to the system."""

KEPT_BYTES = 2**20
M_MMAP_THRESHOLD = -3  # of malloc.h


def keep_blocks() -> None:
    """Let this process map no block of less than `KEPT_BYTES` for itself: its steps need the same ones again and again.

    In the environment of `GIVE_BACK`, for itself and for those that it starts; where a caller has set another threshold,
    that holds.
    """
    if os.environ.get(_THRESHOLD) == GIVE_BACK[_THRESHOLD]:
        os.environ[_THRESHOLD] = str(KEPT_BYTES)
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
