"""Counts the requests that a model has accepted but not answered, in a file that remains when the model's process ends.

If a model's process is killed, Triton never answers the requests that the process had accepted, and does not report their
number.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

SUFFIX = ".in-flight"


class InFlightCount:
    """Writes the number of this process's unanswered requests to the server's shared folder.

    `begin` and `end` may be called from any thread.
    """

    def __init__(self, folder: Path) -> None:
        path = _path(folder, os.getpid())
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)
        self._lock = threading.Lock()
        self._count = 0

    def begin(self) -> None:
        """Count a request that has arrived."""
        self._add(1)

    def end(self) -> None:
        """Stop counting a request, because its last response is about to be sent."""
        self._add(-1)

    def _add(self, number: int) -> None:
        with self._lock:
            self._count += number
            self._memory[:] = struct.pack("q", self._count)


def count_in_flight(folder: Path, pids: Iterable[int] | None = None) -> int:
    """The number of requests that these processes have not answered; the processes may have ended.

    folder: the server's shared folder. pids: if left out, all processes of the server.
    """
    paths = folder.glob(f"*{SUFFIX}") if pids is None else [_path(folder, pid) for pid in pids]
    return sum(_read(path) for path in paths)


def _read(path: Path) -> int:
    try:
        return int(struct.unpack("q", path.read_bytes())[0])
    except (OSError, struct.error):  # there is no such model, or it has just begun to load
        return 0


def _path(folder: Path, pid: int) -> Path:
    return folder / f"{pid}{SUFFIX}"
