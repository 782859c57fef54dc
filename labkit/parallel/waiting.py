"""Waits for another thread, process or GPU, for a limited time, and stops waiting when the ranks are told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from labkit.errors import RankFailed


def wait_until(done: Callable[[], bool], aborted: threading.Event, patience: float, what: str) -> float:
    """Check again and again until `done()` is true, and return the seconds that passed.

    The function checks in a loop because a thread that waits inside gloo, NCCL or CUDA does not notice that another rank has
    failed. Raises `RankFailed` when `aborted` is set or after `patience` seconds. The message contains `what`.
    """
    began = time.perf_counter()
    while not done():
        waited = time.perf_counter() - began
        if aborted.is_set() or waited > patience:
            why = "all ranks were told to stop" if aborted.is_set() else f"the other ranks did not join within {patience:g} s"
            raise RankFailed(f"{why} ({what})")
        if waited > 0.002:
            time.sleep(0.0001 if waited < 0.1 else 0.001)
    return time.perf_counter() - began
