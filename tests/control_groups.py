"""Control groups for tests: files that look like the kernel's, and real groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

TREE = Path("/sys/fs/cgroup")


def process(folder: Path, cgroup: str, *mounts: tuple[str, Path, str]) -> Path:
    """A folder that looks like /proc/self. Each mount is the root in its tree, the mount point, and the type with options."""
    own = folder / "self"
    own.mkdir()
    (own / "cgroup").write_text(cgroup)
    lines = ["22 1 8:1 / / rw - ext4 /dev/sda rw"]
    for root, place, kind in mounts:
        lines.append(f"30 22 0:26 {root} {str(place).replace(' ', chr(92) + '040')} rw,nosuid shared:9 - {kind}")
    (own / "mountinfo").write_text("\n".join(lines) + "\n")
    return own


def group(folder: Path, controller: str, **files: object) -> Path:
    """A folder that looks like a group: `files` are the values of the controller's files, by the rest of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"{controller}.{name}").write_text(f"{value}\n")
    return folder


@contextlib.contextmanager
def real_group(controller: str, limits: Mapping[int, Mapping[str, int | str]]) -> Iterator[Path]:
    """A real cgroup, in the version that this machine uses for the controller. `limits`: values of files, for each version."""
    version_1 = TREE / controller
    top, version = (version_1, 1) if version_1.is_dir() else (TREE, 2)
    folder = top / f"labkit-test-{os.getpid()}"
    try:
        folder.mkdir()
        for name, value in limits[version].items():
            (folder / name).write_text(str(value))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        pytest.skip(f"not measured here: no cgroup for {controller} can be made ({error})")
    try:
        yield folder
    finally:
        folder.rmdir()
