"""Closes a server's shared memory, which holds prompts and answers, to all other users.

Triton's Python backend creates every region of shared memory with mode 644, whatever the server's umask is. Linux reports each
new region, which then gets mode 600 at once. For a short moment, while the region is still empty, a program of another user
could open it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import stat
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
IN_ATTRIB, IN_CREATE = 0x4, 0x100  # from Linux's inotify


class PrivateRegions:
    """Closes all regions of shared memory whose names begin with `prefix` to other users."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        library = ctypes.CDLL(None, use_errno=True)
        self._events = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        library.inotify_add_watch(self._events, os.fsencode(FOLDER), IN_ATTRIB | IN_CREATE)
        self._close()

    def watch(self, seconds: float) -> None:
        """Wait for a region to be created or changed, at most `seconds`; then close regions that are open to other users."""
        if self._events < 0:  # this machine has no more inotify watches left
            time.sleep(seconds)
        elif select.select([self._events], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                os.read(self._events, 65536)
        self._close()

    def _close(self) -> None:
        for region in FOLDER.glob(f"{self._prefix}*"):
            with contextlib.suppress(OSError):
                found = region.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o077:
                    region.chmod(0o600)
