"""Where one call's time goes, operation by operation: torch's profiler, its table sorted by the host's own time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from labkit.measure.timing import waiter


@dataclass(frozen=True)
class OperationTime:
    """An operation of torch: its name, how often it was called, and the host's seconds in it and in nothing it called."""

    name: str
    count: int
    seconds: float


def profile_call(call: Callable[[], Any], device: Any = None, *, runs: int = 5) -> list[OperationTime]:
    """Profile `call`, the most expensive operation first: of `runs` runs after a warm-up, the one of median length.

    `device`'s queue is waited for at the end of each.

    Host time is what is measured, also on a GPU: the time of launching, which bounds small models.
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
    """Keep what the profiler's C++ part writes to the process's stderr out of a notebook."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
