"""Finds out whether other programs took processor time from this one during a measurement. It does not know what is measured.

On a busy machine all runs of a measurement can be slow by the same factor. For example, if two threads wait for each other
after every operation, both lose time when another program uses the core of one. The spread of the runs then stays small, so
it does not show the problem. Linux counts the time during which each thread was ready to run but had no core (the second number
in /proc/self/task/*/schedstat). A thread can also wait for another thread or process of the same program. Therefore only as
much waiting counts as other programs used processor time. Other systems do not count the waiting; on these, the processor time
of all other programs is used alone.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

import psutil

from labkit.environment import usable_cores
from labkit.measure.memory import processes

WAITING_LIMIT = 0.2
"""The share of the time that a thread may wait for a core before a measurement counts as disturbed. Up to this share, fewer
than a quarter of the runs are slow, so neither the median nor the quartiles change much."""
SHORTEST_WAIT = 0.001
"""Shorter waiting times, in seconds, do not count: every thread waits some microseconds when it is woken."""
NEARLY_ALL = 0.9
"""From this share on, no number is said: the counts come from different clocks, and can add up to more than the time itself."""
OTHERS_LIMIT = 0.25
"""The share of processor time that other programs may use, on systems that do not count the waiting time of threads."""
CLOCK_STEP = 0.02
"""Processor time is counted in steps of up to this many seconds, so a shorter difference can be missed."""


class Contention:
    """Watches the machine during its `with` block.

    Then `words` says how other programs disturbed the block ("": not at all). The own program is the process with the id `root`
    (default: this process) and all its descendants: a rank gives the id of the process that started all ranks.
    """

    def __init__(self, root: int | None = None) -> None:
        self._root = root or os.getpid()
        self.words = ""

    def __enter__(self) -> Contention:
        self._waited, self._stolen, self._others = _waited_by_thread(), _stolen(), _used_by_others(self._root)
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.words = self.so_far()

    def so_far(self, seconds: float = 0.0) -> str:
        """How other programs have disturbed the block until now.

        With `seconds`, the answer is empty unless it is already clear that a block of this length will count as disturbed.
        """
        now = max(time.perf_counter() - self._started, 1e-9)
        elapsed = max(now, seconds)
        waiting, used = _waited_by_thread(), _used_by_others(self._root) - self._others
        if waiting:
            longest = max(waited - self._waited.get(thread, 0.0) for thread, waited in waiting.items())
            stolen = max((after - before for after, before in zip(_stolen(), self._stolen, strict=False)), default=0.0)
            waited = max(min(longest, used + CLOCK_STEP), stolen)
            if waited > max(SHORTEST_WAIT, WAITING_LIMIT * elapsed):
                share = waited / now
                how_long = f"{share:.0%} of the time" if share < NEARLY_ALL else "most of the time"
                return f"other programs kept this one waiting for a core for {how_long}"
        elif used > OTHERS_LIMIT * elapsed * usable_cores():
            return f"other programs used {min(used / now / usable_cores(), 1.0):.0%} of the processor"
        return ""


def _waited_by_thread() -> dict[str, float]:
    """Seconds during which each thread of this process was ready but had no core; empty if the system does not count them."""
    waited = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            waited[path.parent.name] = int(path.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # the thread has ended, or the kernel was built without these counts
            continue
    return waited


def _stolen() -> list[float]:
    """For each core of this virtual machine, the seconds in which it was ready to run but the host ran something else."""
    return [float(getattr(core, "steal", 0.0)) for core in psutil.cpu_times(percpu=True)]


def _used_by_others(root: int) -> float:
    """Seconds of processor time that all programs have used, except the process `root` and its descendants."""
    times = psutil.cpu_times()
    return float(times.user + getattr(times, "nice", 0.0) + times.system) - sum(map(_used_by, processes(root)))


def _used_by(process: psutil.Process) -> float:
    """Seconds of processor time that a process has used, with its children that have ended; 0 if it is gone or not ours."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)
