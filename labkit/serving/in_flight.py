"""How many requests a model has taken and not yet answered, in a file that outlives the model's process.

Triton never answers a request whose model was killed after it had taken the request, and tells nobody how many there are.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

SUFFIX = ".in-flight"


class InFlight:
    """The count of one process, in a server's run folder; `begin` and `end` may be called in any thread."""

    def __init__(self, folder: Path) -> None:
        path = _path(folder, os.getpid())
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)
        self._lock = threading.Lock()
        self._count = 0

    def begin(self) -> None:
        """A request has come."""
        self._add(1)

    def end(self) -> None:
        """A request has its last answer."""
        self._add(-1)

    def _add(self, number: int) -> None:
        with self._lock:
            self._count += number
            self._memory[:] = struct.pack("q", self._count)


def in_flight(folder: Path, pids: Iterable[int] | None = None) -> int:
    """Requests that these processes of a server, alive or not, have not answered; of all its processes if left out."""
    paths = folder.glob(f"*{SUFFIX}") if pids is None else [_path(folder, pid) for pid in pids]
    return sum(_read(path) for path in paths)


def _read(path: Path) -> int:
    try:
        return int(struct.unpack("q", path.read_bytes())[0])
    except (OSError, struct.error):  # no such model, or one that is just being loaded
        return 0


def _path(folder: Path, pid: int) -> Path:
    return folder / f"{pid}{SUFFIX}"
