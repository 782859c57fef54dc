"""Finds out how much memory this process can still take: the free memory of the host, limited by cgroups and `ulimit -v`.

The memory limit of a container is in the files of its cgroup (version 1 or 2). The host's free memory does not show it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from labkit.cgroups import PROCESS, group_folders

UNLIMITED = 1 << 60
"""A limit above this value means no limit: cgroup version 1 writes a number close to 2^63 if there is no limit."""


@dataclass(frozen=True)
class Limit:
    """A memory limit, and the memory in use, both in bytes. File pages that the kernel can drop do not count as used."""

    size: int
    used: int


def available_memory(process: Path = PROCESS) -> int:
    """The bytes that this process can still take: the smallest of the host's free memory and the unused part of each limit.

    process: the folder of the process in /proc, from which its cgroups are read.
    """
    left = [limit.size - limit.used for limit in limits(process)]
    return max(0, min([int(psutil.virtual_memory().available), *left]))


def total_memory(process: Path = PROCESS) -> int:
    """The bytes that this process could take if nothing else ran: the smallest of the host's memory and all limits."""
    return min([int(psutil.virtual_memory().total), *(limit.size for limit in limits(process))])


def limits(process: Path = PROCESS) -> list[Limit]:
    """All limits on the memory of this process: the limits of its cgroups and their parents, and of its address space."""
    found = [limit for folder, version in group_folders("memory", process) if (limit := _limit(folder, _NAMES[version]))]
    with contextlib.suppress(ImportError, OSError, psutil.Error):
        import resource

        size = resource.getrlimit(resource.RLIMIT_AS)[0]
        if 0 <= size < UNLIMITED:
            found.append(Limit(size, int(psutil.Process().memory_info().vms)))
    return found


@dataclass(frozen=True)
class _Names:
    """The names of the files of one cgroup version, and the name that droppable file pages have in `memory.stat`."""

    limits: tuple[str, ...]
    used: str
    droppable: str


_NAMES = {
    1: _Names(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
    2: _Names(("memory.max", "memory.high"), "memory.current", "inactive_file"),
}
"""The file names of each cgroup version."""


def _limit(folder: Path, names: _Names) -> Limit | None:
    sizes = [size for name in names.limits if (size := _number(folder / name)) is not None and size < UNLIMITED]
    if not sizes:
        return None
    used, droppable = _number(folder / names.used) or 0, 0
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, value = line.split()
            droppable = int(value) if name == names.droppable else droppable
    return Limit(min(sizes), max(0, used - droppable))


def _number(path: Path) -> int | None:
    """Return the number in a file, or None if the file is missing or holds the word `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
