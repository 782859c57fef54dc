"""A simulated asynchronous device that behaves like a GPU: a launch returns at once, and the work is done later.

The device has an exact virtual clock. A timing function that forgets to wait is therefore wrong by the same known amount on
every machine.
"""

from __future__ import annotations

import random

LAUNCH_SECONDS = 20e-6
COLD_RUNS = 3
COLD_FACTOR = 12.0


class AsyncDevice:
    """Runs steps one after the other on its own queue. It also keeps the clock of the host that launches the steps.

    The first `COLD_RUNS` steps take `COLD_FACTOR` times as long, as on a real GPU, where kernels are compiled and caches are
    filled first.
    """

    def __init__(self, seed: int, step_seconds: float = 2e-3) -> None:
        self._draw = random.Random(seed)
        self._step_seconds = step_seconds
        self._now = 0.0
        self._busy_until = 0.0
        self._launched = 0

    def launch(self) -> None:
        """Put one step on the queue and return at once."""
        self._now += LAUNCH_SECONDS
        cold = COLD_FACTOR if self._launched < COLD_RUNS else 1.0
        work = self._step_seconds * cold * self._draw.uniform(0.9, 1.3)
        self._busy_until = max(self._busy_until, self._now) + work
        self._launched += 1

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        self._now = max(self._now, self._busy_until)

    def clock(self) -> float:
        """The host's time in seconds. Reading the clock takes no time."""
        return self._now

    @property
    def launched(self) -> int:
        """The number of steps that have been launched so far."""
        return self._launched
