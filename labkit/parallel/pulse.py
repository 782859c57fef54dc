"""A sign of life of every rank, in memory that all share: its state, its step, and when it last ran."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from labkit.native.shared_group import FOLDER

STARTING, READY, ENDED = range(3)
BEAT_SECONDS = 0.25
_BEAT, _STATE, _STEP = range(3)


class Pulse:
    """A row of numbers a rank: the monotonic clock of the host when it last beat, its state, the step it is at."""

    def __init__(self, path: Path, ranks: int) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), ranks * 3 * 8)
        self._rows = np.frombuffer(self._memory, dtype=np.float64).reshape(ranks, 3)

    @staticmethod
    def create(ranks: int) -> Path:
        """The file of a new one; who made it deletes it."""
        handle, name = tempfile.mkstemp(prefix="labkit-pulse-", dir=FOLDER if FOLDER.is_dir() else None)
        os.truncate(handle, ranks * 3 * 8)
        os.close(handle)
        return Path(name)

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

    def say(self, rank: int, *, state: int | None = None, step: int | None = None) -> None:
        """Note what a rank is at."""
        if state is not None:
            self._rows[rank, _STATE] = state
        if step is not None:
            self._rows[rank, _STEP] = step

    def state(self, rank: int) -> int:
        """STARTING, READY or ENDED."""
        return int(self._rows[rank, _STATE])

    def step(self, rank: int) -> int:
        """The step that a rank began last; 0 before the first."""
        return int(self._rows[rank, _STEP])
