"""Processes that keep cores busy during a benchmark, as other programs do on a machine that is not idle."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

SPINS = "print(flush=True)\nwhile True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep cores busy with `count` processes while the `with` block runs.

    The processes end when the block ends, even if the block raises an error.
    """
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", SPINS], stdout=subprocess.PIPE))
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield
