"""Temporary folders whose owners have ended are deleted; folders whose owners still run are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.serving.server.locked_folder import LockedFolder, sweep
from labkit.serving.server.server_folder import PID, REGIONS

OWNER = """
import sys, time
from labkit.serving.server.locked_folder import LockedFolder
folder = LockedFolder("test")
print(folder.path, flush=True)
time.sleep(600)
"""

HEIR = """
import subprocess, sys, time
from labkit.serving.server.locked_folder import LockedFolder
folder = LockedFolder("test")
heir = subprocess.Popen(["sleep", "600"], pass_fds=[folder.lock], stdout=subprocess.DEVNULL)
print(folder.path, heir.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def owner(code: str = OWNER) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().split()


def test_a_folder_is_swept_when_its_owner_was_killed_and_not_before() -> None:
    process, (path,) = owner()
    (Path(path) / "file").touch()
    assert Path(path) not in sweep()
    assert Path(path, "file").exists()
    process.kill()
    process.communicate()
    assert Path(path) in sweep()
    assert not Path(path).exists()


def test_a_folder_whose_lock_another_process_has_too_waits_for_that() -> None:
    process, (path, heir) = owner(HEIR)
    process.kill()
    process.communicate()
    assert Path(path) not in sweep()
    os.kill(int(heir), signal.SIGKILL)
    while Path(path).exists():
        sweep()


def test_the_shared_memory_of_a_swept_server_goes_too() -> None:
    process, (path,) = owner()
    region = Path(f"/dev/shm/triton-labkit-test-{process.pid}-1")
    other = Path(f"/dev/shm/triton-labkit-test-{process.pid}0-1")
    try:
        for each in (region, other):
            each.touch()
        (Path(path) / REGIONS).write_text(f"triton-labkit-test-{process.pid}-")
        (Path(path) / PID).write_text(str(os.getpid()))  # a running process that got the same number later
        process.kill()
        process.communicate()
        assert Path(path) in sweep()
        assert not region.exists()
        assert other.exists()
    finally:
        for each in (region, other):
            each.unlink(missing_ok=True)


def test_what_is_not_such_a_folder_stays(tmp_path: Path) -> None:
    mine = LockedFolder("test")
    place = mine.path.parent
    (tmp_path / "somebody").mkdir()
    kept = [place / f"labkit-run-link-{os.getpid()}", place / f"labkit-run-file-{os.getpid()}", place / f"kept-{os.getpid()}"]
    kept[0].symlink_to(tmp_path / "somebody")
    kept[1].touch()
    kept[2].mkdir()
    try:
        assert not {mine.path, *kept} & set(sweep())
        assert all(path.exists() for path in (mine.path, *kept))
    finally:
        kept[0].unlink()
        kept[1].unlink()
        kept[2].rmdir()
    mine.delete()
    mine.delete()
    assert not mine.path.exists()
