"""How long tests wait for an event before they fail. This only prevents waiting forever; it does not measure speed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

from labkit.measure.contention import Contention

T = TypeVar("T")

PATIENCE = 300.0
"""The seconds to wait for something that takes seconds on an idle machine; a busy machine can take ten times as long."""


def wait_for(condition: Callable[[], T], what: str = "the condition of this line", seconds: float = PATIENCE) -> T:
    """Wait until the condition's value is true, and return the value. If it stays false, fail with `what`, the name of the
    missing event.
    """
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {seconds:.0f} s in vain, ten times what an idle machine takes, for: {what}"
        time.sleep(0.02)
    return found


def first_good(attempt: Callable[[], T], is_good: Callable[[T], bool], attempts: int = 5) -> T:
    """Return the first result that is good, or that was found while no other program disturbed the machine.

    After `attempts` attempts, return the last result. This is for code whose result depends on time: on a busy machine, a
    mistake such as not waiting for the answer can have different effects in different runs. On an idle machine, only one
    attempt is made.
    """
    for _ in range(attempts):
        others = Contention().start()
        found = attempt()
        if is_good(found) or not others.so_far():
            break
    return found


def end_or_kill(process: subprocess.Popen[Any], seconds: float = 60.0) -> None:
    """Wait until a process that was asked to end has ended; kill it if it has not ended after `seconds` seconds.

    JupyterLab never ends if it is asked to end while it answers a request: a worker thread of anyio then waits forever.
    """
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def if_alive(look: Callable[[], T], otherwise: T) -> T:
    """Call a method of `psutil.Process`. Return its result, or `otherwise` if the process has ended."""
    try:
        return look()
    except psutil.Error:
        return otherwise


def is_running(process: psutil.Process | int) -> bool:
    """Whether a process, given as an object or by its id, still runs. A zombie process counts as ended. The process can end
    during this call.
    """
    try:
        if isinstance(process, int):
            process = psutil.Process(process)
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
