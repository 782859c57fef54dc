"""Finds out how many cores this process can keep busy."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from labkit.cgroups import PROCESS, group_folders

PROCESSORS = Path("/sys/devices/system/cpu")
"""The folder in which the kernel describes the processors."""

MOST_THREADS = 1024
"""The most threads that a caller can ask for. With many more threads, OpenMP crashes the process."""


def usable_cores() -> int:
    """The number of cores that this process can keep busy, at least 1.

    Three things limit the number: the processors that the process may use (set by `taskset` or a batch system), their physical
    cores, and the CPU quota of a container, rounded down. If there were more threads than the quota allows, the kernel would
    stop all threads for a part of each period.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = physical_cores(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *quotas()])))


cores_at_start = functools.cache(usable_cores)
"""Count the usable cores at the first call, and return the same number at every later call.

The number is cached, because counting the cores takes longer than a small operation of the model.
"""


def quotas(process: Path = PROCESS) -> list[float]:
    """The CPU quotas of this process's cgroups and their parents, in cores: 1.5 means 150 ms of processor time every 100 ms."""
    return [quota for folder, version in group_folders("cpu", process) if (quota := _quota(folder, version)) is not None]


def physical_cores(processors: Iterable[int], folder: Path = PROCESSORS) -> int:
    """Count the physical cores to which these processors belong: two hardware threads of one core count once.

    folder: where the kernel describes the processors. A processor that this folder does not describe counts as one core.
    """
    return len({_threads_of_core(number, folder) for number in processors})


def _quota(folder: Path, version: int) -> float | None:
    try:
        if version == 2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # the file is missing or holds `max`
        return None


def _threads_of_core(number: int, folder: Path) -> str:
    try:
        return (folder / f"cpu{number}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)
