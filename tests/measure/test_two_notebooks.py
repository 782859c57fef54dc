"""Two notebooks that store measurements in the same file at once: nothing that one of them stored is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from labkit.home import locked, write_atomically
from labkit.measure import KeptRuns, Ladder, Task
from tests.patience import PATIENCE

TASK = Task("gptj-tiny", sequences=1, prompt_tokens=16, new_tokens=64)
EACH = 12


def test_a_run_that_is_stored_while_another_is_measured_is_kept(tmp_path: Path) -> None:
    one, two = (KeptRuns("01", tmp_path / "lab01.json") for _ in range(2))

    def measure() -> int:
        assert two.keep("short", lambda: 2) == 2
        return 1

    assert one.keep("long", measure) == 1
    third = KeptRuns("01", tmp_path / "lab01.json")
    for name, value in (("short", 2), ("long", 1)):
        assert third.keep(name, lambda: pytest.fail("measured again")) == value


def test_a_rung_that_is_added_while_another_is_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thread stops between reading and writing, until the second thread waits for it or is done."""
    path = tmp_path / "ladder.json"
    has_read, may_write = threading.Event(), threading.Event()

    def slow(path: Path, content: str) -> None:
        if "slow" in content and not has_read.is_set():
            has_read.set()
            may_write.wait(1.0)
        write_atomically(path, content)

    monkeypatch.setattr("labkit.measure.ladder.write_atomically", slow)
    first = threading.Thread(target=Ladder(path).add, args=(TASK, "slow", 100.0))
    second = threading.Thread(target=Ladder(path).add, args=(TASK, "fast", 200.0))
    first.start()
    assert has_read.wait(PATIENCE)
    second.start()
    second.join(0.5)  # without a lock it is done by then
    may_write.set()
    for thread in (first, second):
        thread.join(PATIENCE)
    assert [rung.name for rung in Ladder(path).rungs] == ["slow", "fast"]


SCRIPT = """
import sys
from pathlib import Path
from labkit.measure import KeptRuns, Ladder, Task
folder, own = Path(sys.argv[1]), sys.argv[2]
task = Task("gptj-tiny", sequences=1, prompt_tokens=16, new_tokens=64)
print("ready", flush=True)
sys.stdin.readline()
for number in range({each}):
    KeptRuns("01", folder / "lab01.json").keep(f"{{own}} {{number}}", lambda: number)
    Ladder(folder / "ladder.json").add(task, f"{{own}} {{number}}", 100.0)
"""


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    script = SCRIPT.format(each=EACH)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), own], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for own in ("a", "b")
    ]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("\n")
        run.stdin.flush()
    assert [run.communicate(timeout=PATIENCE) and run.returncode for run in runs] == [0, 0]
    names = {f"{own} {number}" for own in "ab" for number in range(EACH)}
    assert {rung.name for rung in Ladder(tmp_path / "ladder.json").rungs} == names
    assert set(KeptRuns("01", tmp_path / "lab01.json")._rows()) == names


def test_a_lock_ends_with_its_block_even_after_an_exception(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    with pytest.raises(ValueError, match="wrong"), locked(path):
        raise ValueError("wrong")
    entered = []

    def enter(act: Callable[[], None]) -> None:
        with locked(path):
            act()

    thread = threading.Thread(target=enter, args=(lambda: entered.append(1),), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert entered == [1]
