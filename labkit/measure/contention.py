"""Finds out whether other programs took processor time from this program during a measurement.

On a busy machine all runs of a measurement can be slow by the same factor. For example, if two threads wait for each other
after every operation, both threads lose time when another program uses the core of one thread. The spread of the runs then
stays small, so it does not show the problem. Linux counts the time during which each thread was ready to run but had no core
(the second number in /proc/PID/task/*/schedstat). The threads of child processes are included, because their parent may sleep
until they are done. A thread can also wait for another thread or process of the same program. Therefore the counted waiting
time is never more than the processor time that other programs used. Systems other than Linux do not measure this waiting time.
On such systems, this module assumes that this program waited as long as other programs used the processor. If a process ends
before its waiting time is read, this time is lost.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from types import TracebackType

import psutil

from labkit.host_cores import usable_cores
from labkit.measure.memory import processes

WAITING_LIMIT = 0.2
"""The share of the time that a thread may wait for a core before a measurement counts as disturbed. Up to this share, fewer
than a quarter of the runs are slow, so the median and the quartiles change little.
"""
TOGETHER_LIMIT = 0.5
"""Like `WAITING_LIMIT`, but for a program whose processes wait for each other.

The waiting times of all processes of the program are added up. This limit is higher than `WAITING_LIMIT`, because even the
short waiting times of many processes that mostly sleep add up.
"""
SHORTEST_WAIT = 0.001
"""Shorter waiting times, in seconds, are ignored, because every thread waits some microseconds when it is woken."""
NEARLY_ALL = 0.9
"""If other programs kept this program waiting for this share of the time or more, the message contains no number.

The waiting time and the total time come from different clocks, so the share can be more than 100%.
"""
OTHERS_LIMIT = 0.25
"""The share of processor time that other programs may use, on systems that do not count the waiting time of threads."""
ASLEEP = 10.0
"""A program that sleeps loses no time to other programs.

On systems that do not count the waiting time, the lost time is therefore limited to this many times the processor time that the
program used.
"""
CLOCK_STEP = 0.02
"""Processor time is counted in steps of up to this many seconds, so a shorter difference can be missed."""


class Contention:
    """Watches the machine during its `with` block.

    After the block, `words` says how other programs disturbed the block; it is "" if they did not. All processes with the ids
    `roots` (default: this process) and their descendants belong to this program. A rank passes as `roots` the id of the process
    that started all ranks. A client passes its own id and the id of the server that it measures.

    The waiting time of a program is the waiting time of its thread that waited longest, because the threads of a measurement
    work at the same time. `in_turn` is for a program whose processes wait for each other, such as ranks that exchange messages.
    If `in_turn` is set, the waiting times of all processes are also added up, because each delay delays the whole program. The
    waiting time of a process is the waiting time of its thread that waited longest.
    """

    def __init__(self, *roots: int, in_turn: bool = False) -> None:
        self._roots, self._in_turn = roots or (os.getpid(),), in_turn
        self.words = ""

    def start(self) -> Contention:
        """Begin to watch, without a `with` block: for a caller that needs `so_far` only sometimes. Returns itself."""
        self._before = _read(*self._roots)
        self._started = time.perf_counter()
        return self

    def __enter__(self) -> Contention:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.words = self.so_far()

    def so_far(self, seconds: float = 0.0) -> str:
        """Say how other programs have disturbed the block so far. Returns "" if they have not disturbed it.

        If `seconds` is given, a message is returned only if it is already clear that a block that lasts this many seconds will
        count as disturbed.
        """
        passed = max(time.perf_counter() - self._started, 1e-9)
        elapsed = max(passed, seconds)
        before, now = self._before, _read(*self._roots)
        others, at_most = now.others - before.others, ASLEEP * (now.own - before.own + CLOCK_STEP)
        if now.waited:
            longest: dict[int, float] = {}
            for thread, total in now.waited.items():
                longest[thread[0]] = max(longest.get(thread[0], 0.0), total - before.waited.get(thread, 0.0))
            own_waiting, together = max(longest.values()), sum(longest.values())
            if self._in_turn and together > TOGETHER_LIMIT * elapsed:
                own_waiting = together
            stolen = max((after - then for after, then in zip(now.stolen, before.stolen, strict=False)), default=0.0)
            waited = max(min(own_waiting, others + CLOCK_STEP), min(stolen, at_most))
            if waited > max(SHORTEST_WAIT, WAITING_LIMIT * elapsed):
                share = waited / passed
                how_long = f"{share:.0%} of the time" if share < NEARLY_ALL else "most of the time"
                return f"other programs kept this one waiting for a core for {how_long}"
        elif min(others, at_most) > OTHERS_LIMIT * elapsed * usable_cores():
            share = min(others / passed / usable_cores(), 1.0)
            return f"other programs used {share:.0%} of the processor, and it is assumed that this one waited for them"
        return ""


@dataclass(frozen=True)
class _Reading:
    """One reading of counters, in seconds. Only the difference between two readings has a meaning.

    waited: for each thread of this program (process id, thread id), the time during which the thread was ready to run but had
    no core. own: the processor time of this program. others: the processor time of all other programs. stolen: see `_stolen`.
    """

    waited: dict[tuple[int, str], float]
    own: float
    others: float
    stolen: list[float]


def _read(*roots: int) -> _Reading:
    program = list({process.pid: process for root in roots for process in processes(root)}.values())
    own = sum(map(_used_by, program))
    return _Reading(_waited_by_thread(program), own, _used_by_all() - own, _stolen())


def _waited_by_thread(program: list[psutil.Process]) -> dict[tuple[int, str], float]:
    """Seconds during which each thread of these processes was ready to run but had no core.

    The result is empty if the system does not count these seconds.
    """
    waited = {}
    for process in program:
        with contextlib.suppress(OSError):  # the process has ended
            for thread in os.listdir(f"/proc/{process.pid}/task"):
                with contextlib.suppress(OSError, ValueError, IndexError):  # the kernel may be built without these counts
                    counts = _content(f"/proc/{process.pid}/task/{thread}/schedstat")
                    waited[process.pid, thread] = int(counts.split()[1]) / 1e9
    return waited


def _content(path: str) -> bytes:
    """The content of a small file of the kernel. `open` takes several times as long, and there can be hundreds of threads."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 256)
    finally:
        os.close(file)


def _stolen() -> list[float]:
    """For each core of this virtual machine, the seconds during which the core had work but the host ran other machines."""
    return [float(getattr(core, "steal", 0.0)) for core in psutil.cpu_times(percpu=True)]


def _used_by_all() -> float:
    """Seconds of processor time that all programs have used."""
    times = psutil.cpu_times()
    return float(times.user + getattr(times, "nice", 0.0) + times.system)


def _used_by(process: psutil.Process) -> float:
    """Seconds of processor time of a process and of its children that have ended.

    The result is 0 if the process is gone or belongs to another user.
    """
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)
