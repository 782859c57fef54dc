"""Keeps a process visible after its parent has ended. It does not know why a process was started."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SET_CHILD_SUBREAPER, GET_CHILD_SUBREAPER = 36, 37  # from Linux's prctl


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """In this block, a descendant whose parent ends becomes a child of this process, so it stays a descendant.

    Outside such a block, it becomes a child of the system's first process, like the program in `setsid program &`. An adopted
    child that has ended remains a zombie until this process ends. On systems other than Linux, nothing changes.
    """
    if sys.platform != "linux":
        yield
        return
    library, before = ctypes.CDLL(None), ctypes.c_int(0)
    library.prctl(GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
    library.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(SET_CHILD_SUBREAPER, before.value, 0, 0, 0)
