"""A sign of life of every rank, in memory that all share: whether it is ready, its step, and when it last ran."""

from __future__ import annotations

import mmap
import threading
import time
from pathlib import Path

import numpy as np

from labkit.native.shared_group import shared_file

BEAT_SECONDS = 0.25
_BEAT, _READY, _STEP = range(3)


class Pulse:
    """A row of numbers a rank: the monotonic clock of the host when it last beat, whether it is ready, its step."""

    def __init__(self, path: Path, ranks: int) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _bytes(ranks))
        self._rows = np.frombuffer(self._memory, dtype=np.float64).reshape(ranks, 3)

    @staticmethod
    def create(ranks: int) -> Path:
        """The file of a new one; who made it deletes it."""
        return shared_file("pulse", _bytes(ranks))

    def beat(self, rank: int) -> None:
        """Keep a rank alive from a thread of this process, as long as the process runs."""

        def go_on() -> None:
            while True:
                self._rows[rank, _BEAT] = time.monotonic()
                time.sleep(BEAT_SECONDS)

        self._rows[rank, _BEAT] = time.monotonic()
        threading.Thread(target=go_on, daemon=True, name="labkit pulse").start()

    def silent_for(self, rank: int) -> float:
        """Seconds since a rank's last beat; 0 before the first."""
        last = float(self._rows[rank, _BEAT])
        return time.monotonic() - last if last else 0.0

    def say_ready(self, rank: int) -> None:
        """Note that a rank has read its part."""
        self._rows[rank, _READY] = 1

    def say_step(self, rank: int, step: int) -> None:
        """Note the step that a rank begins."""
        self._rows[rank, _STEP] = step

    def is_ready(self, rank: int) -> bool:
        """Whether a rank has read its part."""
        return bool(self._rows[rank, _READY])

    def step(self, rank: int) -> int:
        """The step that a rank began last; 0 before the first."""
        return int(self._rows[rank, _STEP])


def _bytes(ranks: int) -> int:
    return ranks * 3 * np.dtype(np.float64).itemsize
