"""Two calls with one target: the second is refused, unless the first has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labkit.compress.work_folder import SETTINGS, WorkFolder
from labkit.errors import InvalidRequest

HOLD = """
import sys
from pathlib import Path
from labkit.compress.work_folder import WorkFolder

work = WorkFolder(Path(sys.argv[1]), {"bits": 4})
work.open()
(work.path / "1.safetensors").touch()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("bits", [4, 8])
def test_a_second_call_is_refused_and_changes_nothing(tmp_path: Path, bits: int) -> None:
    first, second = WorkFolder(tmp_path / "model", {"bits": 4}), WorkFolder(tmp_path / "model", {"bits": bits})
    first.open()
    (first.path / "1.safetensors").touch()
    with pytest.raises(InvalidRequest, match=r"another call is writing to \S+\.model\.compressing; wait until"):
        second.open()
    assert sorted(path.name for path in first.path.iterdir()) == ["1.safetensors", SETTINGS]
    first.close()
    assert second.open() == (1 if bits == 4 else 0)
    second.close()


def test_a_killed_call_leaves_no_lock(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"open\n"
        with pytest.raises(InvalidRequest, match="another call"):
            WorkFolder(target, {"bits": 4}).open()
        run.kill()
    work = WorkFolder(target, {"bits": 4})
    assert work.open() == 1
    work.finish()
    work.close()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_call_that_comes_as_another_finishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call renames its folder after the second has found that there is no target."""
    first, second = WorkFolder(tmp_path / "model", {}), WorkFolder(tmp_path / "model", {})
    first.open()
    acquire = second._acquire

    def finish_first() -> None:
        first.finish()
        first.close()
        acquire()

    monkeypatch.setattr(second, "_acquire", finish_first)
    with pytest.raises(InvalidRequest, match="model exists; give another target"):
        second.open()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
