"""Control groups for tests: imitations of the kernel's files, and real groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TREE = Path("/sys/fs/cgroup")


def process(folder: Path, cgroup: str, *mounts: tuple[str, Path, str]) -> Path:
    """Make a folder that looks like /proc/self.

    Each mount is a tuple: the mount's root in its file system, the mount point, and the type with options.
    """
    own = folder / "self"
    own.mkdir()
    (own / "cgroup").write_text(cgroup)
    lines = ["22 1 8:1 / / rw - ext4 /dev/sda rw"]
    for root, place, kind in mounts:
        lines.append(f"30 22 0:26 {root} {str(place).replace(' ', chr(92) + '040')} rw,nosuid shared:9 - {kind}")
    (own / "mountinfo").write_text("\n".join(lines) + "\n")
    return own


def group(folder: Path, controller: str, **files: object) -> Path:
    """Make a folder that looks like a group. `files` maps the names of the controller's files to their contents."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"{controller}.{name}").write_text(f"{value}\n")
    return folder


@contextlib.contextmanager
def real_group(controller: str, limits: Mapping[int, Mapping[str, int | str]], name: str = "test") -> Iterator[Path]:
    """Make a real cgroup, of the version that this machine uses for the controller. `limits`: file values for each version."""
    version_1 = TREE / controller
    top, version = (version_1, 1) if version_1.is_dir() else (TREE, 2)
    folder = top / f"labkit-{name}-{os.getpid()}"
    try:
        folder.mkdir()
        for file, value in limits[version].items():
            (folder / file).write_text(str(value))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"not measured here: no cgroup for {controller} can be made ({error})")
    try:
        yield folder
    finally:
        folder.rmdir()


def cpu_quota(cores: float) -> dict[int, dict[str, int | str]]:
    """The limits for `real_group` that give a group the processor time of `cores` cores."""
    quota, period = int(100_000 * cores), 100_000
    return {1: {"cpu.cfs_period_us": period, "cpu.cfs_quota_us": quota}, 2: {"cpu.max": f"{quota} {period}"}}


def seconds_stopped(folder: Path) -> float:
    """For how many seconds the kernel has paused the processes of a cpu group because their quota was used up."""
    read = dict(line.split() for line in (folder / "cpu.stat").read_text().splitlines())
    return int(read["throttled_time"]) / 1e9 if "throttled_time" in read else int(read["throttled_usec"]) / 1e6
