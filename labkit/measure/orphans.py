"""Keeps a process among this program's descendants after the process's parent has ended."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SET_CHILD_SUBREAPER, GET_CHILD_SUBREAPER = 36, 37  # constants of Linux's prctl


_lock = threading.Lock()
_open_blocks = 0
_before = ctypes.c_int(0)


def _in_child() -> None:
    """Make a forked child start with no open block, because the child does not adopt orphans even if its parent does."""
    global _open_blocks, _lock
    _open_blocks, _lock = 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """While the block runs, adopt orphans: a descendant whose parent has ended becomes a child of this process.

    So every orphan remains a descendant of this process. Blocks of several threads may overlap. The last block that ends
    restores the state from before the first block.

    Outside such a block, an orphan becomes a child of the system's first process, as the program in `setsid program &` does. An
    adopted child that has ended remains a zombie until this process ends. On systems other than Linux, nothing changes.
    """
    if sys.platform != "linux":
        yield
        return
    global _open_blocks
    library = ctypes.CDLL(None)
    with _lock:
        if _open_blocks == 0:
            library.prctl(GET_CHILD_SUBREAPER, ctypes.byref(_before), 0, 0, 0)
            library.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _open_blocks += 1
    try:
        yield
    finally:
        with _lock:
            _open_blocks -= 1
            if _open_blocks == 0:
                library.prctl(SET_CHILD_SUBREAPER, _before.value, 0, 0, 0)
