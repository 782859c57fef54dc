"""Takes from all others the right to read a server's shared memory, in which prompts and answers lie.

Triton's Python backend gives every region mode 644, whatever the server's umask is. Linux tells us of each, and it gets mode
600 at once. A moment remains, before the region holds anything, in which a waiting program of another user can open it.
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
IN_ATTRIB, IN_CREATE = 0x4, 0x100  # of Linux's inotify


class PrivateRegions:
    """Regions whose names begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        library = ctypes.CDLL(None, use_errno=True)
        self._events = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        library.inotify_add_watch(self._events, os.fsencode(FOLDER), IN_ATTRIB | IN_CREATE)
        self._close()

    def watch(self, seconds: float) -> None:
        """Wait so long, or until something has happened to a region, and close those that are open to others."""
        if self._events < 0:  # there are too many such watches on this machine
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
