"""Waiting for what another thread, process or GPU does: with an end, and given up when the ranks are told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from labkit.errors import RankFailed


def wait_until(done: Callable[[], bool], aborted: threading.Event, patience: float, what: str) -> float:
    """Look again and again until `done()`; gives the seconds that it took.

    A thread that gloo, NCCL or CUDA holds could not be told that another rank has failed. Raises `RankFailed` with `what` in
    it once `aborted` is set, or after `patience` seconds.
    """
    began = time.perf_counter()
    while not done():
        waited = time.perf_counter() - began
        if aborted.is_set() or waited > patience:
            why = "all others were told to stop" if aborted.is_set() else f"nobody came within {patience:g} s"
            raise RankFailed(f"{why} ({what})")
        if waited > 0.002:
            time.sleep(0.0001 if waited < 0.1 else 0.001)
    return time.perf_counter() - began
