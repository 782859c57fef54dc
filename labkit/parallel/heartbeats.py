"""Signs of life of all ranks of a host, in shared memory: each rank's heartbeat, whether it is ready, and its step."""

from __future__ import annotations

import mmap
import threading
import time
from pathlib import Path

import numpy as np

from labkit.native.shared_group import shared_file

BEAT_SECONDS = 0.25
_BEAT, _READY, _STEP = range(3)


class Heartbeats:
    """Three numbers per rank: the time of its last heartbeat (host's monotonic clock), whether it is ready, and its step."""

    def __init__(self, path: Path, ranks: int) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _bytes(ranks))
        self._rows = np.frombuffer(self._memory, dtype=np.float64).reshape(ranks, 3)

    @staticmethod
    def create(ranks: int) -> Path:
        """Create the shared file and return its path. The caller deletes the file once all ranks have opened it.

        Raises `InsufficientResources` if there is not enough shared memory.
        """
        return shared_file("heartbeats", _bytes(ranks))

    def start_beating(self, rank: int) -> None:
        """Record heartbeats of a rank from a thread of this process, for as long as the process runs."""

        def beat() -> None:
            while True:
                self._rows[rank, _BEAT] = time.monotonic()
                time.sleep(BEAT_SECONDS)

        self._rows[rank, _BEAT] = time.monotonic()
        threading.Thread(target=beat, daemon=True, name="labkit heartbeat").start()

    def silent_for(self, rank: int) -> float:
        """Seconds since a rank's last heartbeat; 0 before the first heartbeat."""
        last = float(self._rows[rank, _BEAT])
        return time.monotonic() - last if last else 0.0

    def set_ready(self, rank: int) -> None:
        """Record that a rank has read its part of the model."""
        self._rows[rank, _READY] = 1

    def set_step(self, rank: int, step: int) -> None:
        """Record the step that a rank begins."""
        self._rows[rank, _STEP] = step

    def is_ready(self, rank: int) -> bool:
        """Whether a rank has read its part of the model."""
        return bool(self._rows[rank, _READY])

    def step(self, rank: int) -> int:
        """The latest step that a rank began; 0 before the first step."""
        return int(self._rows[rank, _STEP])


def _bytes(ranks: int) -> int:
    return ranks * 3 * np.dtype(np.float64).itemsize
