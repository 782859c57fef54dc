"""Uses torch's profiler to measure the host time of each torch operation in a call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from labkit.measure.timing import waiter


@dataclass(frozen=True)
class OperationTime:
    """A torch operation: its name, its number of calls, and its host seconds without the time of operations that it calls."""

    name: str
    count: int
    seconds: float


def profile_call(call: Callable[[], Any], device: Any = None, *, runs: int = 5) -> list[OperationTime]:
    """Profile `call` and return its operations, the most expensive operation first.

    After a warm-up, `call` runs `runs` times, and the operations of the run with the median time are returned. Each run ends
    when the queue of `device` is empty. The profiler measures host time. On a GPU, host time is the time for launching kernels,
    which limits the speed of small models.
    """
    call()
    profiles = sorted((_profile(call, device) for _ in range(runs)), key=lambda rows: sum(row.seconds for row in rows))
    return sorted(profiles[runs // 2], key=lambda row: -row.seconds)


def _profile(call: Callable[[], Any], device: Any) -> list[OperationTime]:
    from torch.profiler import ProfilerActivity, profile

    with _silent_stderr(), profile(activities=[ProfilerActivity.CPU]) as profiled:
        call()
        waiter(device)()
    return [OperationTime(e.key, e.count, 1e-6 * e.self_cpu_time_total) for e in profiled.key_averages()]


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide the lines that the profiler's C++ part writes to stderr, which would show up in a notebook."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
