"""Another program that keeps the first core busy. It is no child of the measuring process, so it counts as another program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PINNED = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="not measured here: no process can be pinned to a core"
)
COUNTED = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="not measured here: the kernel counts no waiting"
)

SPINS = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print("spins", flush=True)
while True: pass
"""


@contextmanager
def busy_core() -> Iterator[int]:
    """In this block, a process uses all the time of the first core that this process may use. Yields its id."""
    with subprocess.Popen([sys.executable, "-c", SPINS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()
