"""Shows where a test hangs that waits for another process.

When the time limit of a test passes, pytest-timeout shows where the test waits, but not what the processes that it has started
do. So this module first names these processes and ends them with SIGABRT, at which every Python program prints the stacks of
its threads. The test then usually fails in its own way, with this output in its message. If the test still hangs after
`LAST_SECONDS`, pytest-timeout ends it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import psutil
import pytest

LAST_SECONDS = 60.0
"""How many seconds a test has to fail after its processes have been ended."""

CURRENT = "PYTEST_CURRENT_TEST"
"""The environment variable in which pytest tells the processes that a test starts the name of this test."""

os.environ.setdefault("PYTHONFAULTHANDLER", "1")  # Python programs that tests start print their stacks at SIGABRT


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Set the timer of a test, in place of pytest-timeout. Other methods than signals are left to pytest-timeout."""
    if settings.method != "signal" or threading.current_thread() is not threading.main_thread():
        return None
    from pytest_timeout import timeout_sigalrm  # type: ignore[import-untyped]

    def end_test(number: int, frame: FrameType | None) -> None:
        timeout_sigalrm(item, settings)

    def end_processes(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, end_test)
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)
        print(f"{item.nodeid} did not end within {settings.timeout:g} seconds. Its processes are ended:", file=sys.stderr)
        for process in processes_of(item.nodeid):
            with contextlib.suppress(psutil.Error):
                print(f"{process.pid} ({process.status()}): {' '.join(process.cmdline())}", file=sys.stderr)
                process.send_signal(signal.SIGABRT)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]  # pytest-timeout calls it
    signal.signal(signal.SIGALRM, end_processes)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout)
    return True


def processes_of(test: str) -> Iterator[psutil.Process]:
    """Yield the processes that the test has started, also those whose parent has ended."""
    mine = psutil.Process()
    descendants = mine.children(recursive=True)
    for process in psutil.process_iter():
        if process == mine:
            continue
        with contextlib.suppress(psutil.Error):
            if process in descendants or process.environ().get(CURRENT, "").startswith(f"{test} ("):
                yield process
