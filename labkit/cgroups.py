"""Finds the control groups (cgroups) of this process, in which Linux limits the memory and the processor time of a container.

Both versions of cgroups are supported. `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` in the Linux source tree
describe the files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

PROCESS = Path("/proc/self")
"""The folder in /proc from which the groups of this process are read."""


def group_folders(controller: str, process: Path = PROCESS) -> Iterator[tuple[Path, int]]:
    """Yield the folder and the version of each group that can limit this process, from its own group up to the mount point.

    controller: memory or cpu. Yields nothing if the system has no cgroups. process: the folder of the process in /proc.
    """
    paths = _paths(process)
    with contextlib.suppress(OSError):
        for line in (process / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            root, mounted = before.split()[3:5]
            kind, _, options = after.split()[:3]
            version_1 = kind == "cgroup" and controller in options.split(",")
            path = paths.get(controller if version_1 else "") if version_1 or kind == "cgroup2" else None
            if path is None:
                continue
            top = Path(mounted.encode().decode("unicode_escape"))  # in mountinfo, a space is written as \040
            inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
            for folder in (top / inside, *(top / parent for parent in inside.parents if inside.parts)):
                yield folder, 1 if version_1 else 2


def _paths(process: Path) -> dict[str, str]:
    """The path of this process's cgroup for each controller. For cgroup version 2, which has one path, the key is ""."""
    found = {}
    with contextlib.suppress(OSError):
        for line in (process / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            found.update(dict.fromkeys(controllers.split(","), path))
    return found
