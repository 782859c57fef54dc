"""Runs the process with a learner's function, reads what it writes to its pipe, and ends everything that it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from typing import IO

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
    """Run a command, with the path of a pipe as one more argument. Return its exit status and what it wrote to the pipe.

    At the end, the processes of its session are ended. If it was stopped, all of its descendants are ended.
    """
    read, write = os.pipe()
    nowhere = subprocess.DEVNULL
    with os.fdopen(read, "rb") as source:
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
        reader = _Reader(source)
        # `process.wait(timeout=...)` wakes 20 times per second, and each time it may wait for a core. This thread sleeps instead.
        waiting = threading.Thread(target=process.wait, daemon=True)
        try:
            waiting.start()
            problem = _watch(process.pid, waiting, reader, seconds)
            status = None if waiting.is_alive() else process.returncode
            if problem:
                _kill_all(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        late = f"Your function ran for more than {seconds} seconds and was stopped."
        if problem:
            return End(None if problem == late else process.returncode, problem=problem)
        return End(status, reader.all())
