"""Two conditions for tests: another program keeps the machine's first core busy, or no other program seems to run.

The spinning process of `busy_core` is not a descendant of the test's process, so it counts as another program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from labkit.measure import contention

PINNED = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="not measured here: no process can be pinned to a core"
)
COUNTED = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="not measured here: the kernel counts no waiting"
)

FIRST_CORE = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
"""
"""Source code that makes a process, and all processes that it starts, share the first core with `busy_core`."""

SPINS = f"""
{FIRST_CORE}
print("spins", flush=True)
while True: pass
"""


LAUNCHER = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid)
"""
"""A program that starts another process and then ends, so that the other process is not a descendant of the test's process."""


@contextmanager
def busy_core() -> Iterator[int]:
    """In this block, another process spins on the first core that the current process can use. Yields its process id."""
    done = subprocess.run([sys.executable, "-c", LAUNCHER, SPINS], stdout=subprocess.PIPE, check=True)
    process = psutil.Process(int(done.stdout))
    try:
        yield process.pid
    finally:
        process.kill()


def no_other_programs(patch: pytest.MonkeyPatch) -> None:
    """Let `Contention` see no other program that uses processor time, even if there are such programs.

    A function that exceeds its time limit then always fails, so a test can expect the failure on a busy machine too.
    """
    patch.setattr(contention, "_used_by_all", lambda: 0.0)
    patch.setattr(contention, "_stolen", lambda: [0.0])
