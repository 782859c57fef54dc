"""Runs the process with a learner's function, reads what it writes to its pipe, and ends everything that it has started."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass

import psutil

from labkit.measure.memory import processes, resident_bytes
from labkit.time_limits import limit_passed

MOST_BYTES = 64 * 2**20
"""The most bytes that are read from a learner's process."""
MOST_PROCESSES, MOST_MEMORY_BYTES = 300, 12 * 2**30
"""A learner's processes are ended if there are more of them, or if their resident memory together is larger."""
WATCH_SECONDS = 0.3


@dataclass(frozen=True)
class End:
    """How a worker ended: its exit status (None if its time ran out), what it wrote, and why it was stopped, if it was."""

    status: int | None
    written: bytes = b""
    problem: str = ""


def run(command: list[str], folder: str, seconds: float) -> End:
    """Run a command, with the path of a pipe as one more argument. Return how it ended, and what it wrote to the pipe.

    At the end, the processes of its session are ended. If it was stopped, all of its descendants are ended.
    """
    source, write = os.pipe()
    reader = _Reader(source)
    reader.start()
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(
            [*command, f"/dev/fd/{write}"],
            cwd=folder,
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            start_new_session=True,
            pass_fds=(write,),
        )
    finally:
        os.close(write)
    # `process.wait(timeout=...)` wakes 20 times per second, and each time it may wait for a core. This thread sleeps instead.
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    problem, is_late = "", False
    try:
        problem, is_late = _watch(process.pid, waiting, reader, seconds)
    finally:
        if problem or waiting.is_alive():
            kill_with_descendants(process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.stop()
    return End(None if is_late else process.returncode, bytes(reader.found), problem)


def _watch(pid: int, waiting: threading.Thread, reader: _Reader, seconds: float) -> tuple[str, bool]:
    """Wait for the end of a process.

    The result says why it must be stopped, or is "" if it has ended. It also says whether its time ran out.
    """
    until = time.monotonic() + seconds
    while waiting.is_alive():
        waiting.join(min(WATCH_SECONDS, max(until - time.monotonic(), 0.0)))
        if reader.is_too_much:
            return f"Your function returned more than {MOST_BYTES // 2**20} MiB.", False
        if waiting.is_alive() and time.monotonic() >= until:
            limit_passed(f"your function did not finish within {seconds:g} seconds")
            return f"Your function ran for more than {seconds:g} seconds and was stopped.", True
        with contextlib.suppress(psutil.Error):
            started = processes(pid)
            if len(started) > MOST_PROCESSES:
                return f"Your function started more than {MOST_PROCESSES} processes and was stopped.", False
            if resident_bytes(started) > MOST_MEMORY_BYTES:
                words = f"Your function used more than {MOST_MEMORY_BYTES // 2**30} GiB of memory and was stopped."
                return words, False
    return "", False


def kill_with_descendants(pid: int) -> None:
    """Kill a process that was not waited for yet, and its descendants, also those that have left its session."""
    with contextlib.suppress(psutil.Error):
        for process in processes(pid):
            with contextlib.suppress(psutil.Error):
                process.kill()


class _Reader(threading.Thread):
    """Reads a pipe until nobody can write to it any more, or until it has read too much. Closes the pipe."""

    def __init__(self, source: int) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._ends = threading.Event()
        self.found = bytearray()

    @property
    def is_too_much(self) -> bool:
        """Whether more was written than may be read."""
        return len(self.found) > MOST_BYTES

    def run(self) -> None:
        """Read. Python calls this in the thread."""
        os.set_blocking(self._source, False)
        with contextlib.closing(selectors.DefaultSelector()) as selector:
            selector.register(self._source, selectors.EVENT_READ)
            while not self.is_too_much:
                ends = self._ends.is_set()
                if selector.select(0 if ends else 0.1):
                    part = os.read(self._source, 2**20)
                    if not part:
                        break
                    self.found += part
                elif ends:
                    break
        os.close(self._source)

    def stop(self) -> None:
        """Read what is left, and end, even if a process that nobody found keeps the pipe open."""
        self._ends.set()
        self.join()
