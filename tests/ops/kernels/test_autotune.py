"""Choices of kernels are measured with a fake clock, stored, found again, and measured again after a change."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch

from labkit.ops.kernels import autotune
from labkit.ops.kernels.autotune import Problem, Tuner, TuningFile

CANDIDATES = {"first": 3.0, "second": 1.0, "third": 2.0}
"""Each candidate's plan is the number of milliseconds that it takes."""
PROBLEM = Problem("linear int8", (8, 4096, 16384), torch.float16, torch.device("cpu"))
KEY = "linear int8 8x4096x16384 float16"
ROOT = Path(__file__).parents[3]


class Clock:
    """Replaces `do_bench`: the time of a call is the call's return value. A plan below 0 fails."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, call: Callable[[], object]) -> float:
        self.calls += 1
        taken = call()
        assert isinstance(taken, float)
        if taken < 0:
            raise RuntimeError("out of resource: shared memory")
        return taken


def make(path: Path, clock: Clock, device: str = "A GPU", sources: tuple[Path, ...] = (), torch_version: str = "2.13") -> Tuner:
    return Tuner(sources, path=path, do_bench=clock, device_name=lambda _: device, versions=lambda: {"torch": torch_version})


def pick(tuner: Tuner, problem: Problem = PROBLEM) -> float:
    return tuner.choose(problem, CANDIDATES, lambda plan: plan)


def tuned(tuner: Tuner) -> float:
    with tuner.tuning():
        return pick(tuner)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "autotune.json"


def test_untuned_is_the_first_and_nothing_is_measured(path: Path) -> None:
    clock = Clock()
    assert pick(make(path, clock)) == 3.0
    assert clock.calls == 0
    assert not path.exists()


def test_the_fastest_is_kept_and_found_by_the_next_process(path: Path) -> None:
    clock, lines = Clock(), []
    tuner = make(path, clock)
    with tuner.tuning(lines.append):
        assert pick(tuner) == 1.0
        assert pick(tuner) == 1.0
    assert clock.calls == 3
    assert lines == [f"{KEY}: second, 1.0000 ms"]
    assert pick(tuner) == 1.0
    assert pick(make(path, clock)) == 1.0
    assert clock.calls == 3


def test_the_file_can_be_read_by_people(path: Path) -> None:
    tuned(make(path, Clock()))
    stored = json.loads(path.read_text())
    entry = stored["devices"]["A GPU"][KEY]
    assert stored["format"] == 1
    assert entry["choice"] == "second"
    assert list(entry["milliseconds"].items()) == [("second", 1.0), ("third", 2.0), ("first", 3.0)]
    assert entry["versions"]["torch"] == "2.13"
    assert len(entry["versions"]["kernels"]) == 12
    assert entry["tuned"][:2] == "20"


@pytest.mark.parametrize("changed", ["device", "version", "source"])
def test_what_was_measured_elsewhere_is_measured_anew(path: Path, tmp_path: Path, changed: str) -> None:
    source = tmp_path / "kernel.py"
    source.write_text("one")
    tuned(make(path, Clock(), sources=(source,)))
    clock = Clock()
    if changed == "source":
        source.write_text("two")
    device, version = {"device": ("Another", "2.13"), "version": ("A GPU", "2.14")}.get(changed, ("A GPU", "2.13"))
    tuner = make(path, clock, device, (source,), version)
    assert pick(tuner) == 3.0, "a stale choice was used"
    assert tuned(tuner) == 1.0
    assert clock.calls == 3
    assert len(json.loads(path.read_text())["devices"]) == 1 + (changed == "device")


def test_each_shape_and_dtype_has_its_own_choice(path: Path) -> None:
    tuner = make(path, Clock())
    assert tuned(tuner) == 1.0
    assert pick(tuner, PROBLEM._replace(sizes=(4, 4096, 16384))) == 3.0
    assert pick(tuner, PROBLEM._replace(dtype=torch.bfloat16)) == 3.0


def test_a_candidate_that_is_no_more_is_measured_anew(path: Path) -> None:
    tuned(make(path, Clock()))
    tuner = make(path, Clock())
    with tuner.tuning():
        assert tuner.choose(PROBLEM, {"new": 5.0, "newer": 4.0}, lambda plan: plan) == 4.0


def test_candidates_that_fail_are_left_out(path: Path) -> None:
    tuner = make(path, Clock())
    with tuner.tuning():
        assert tuner.choose(PROBLEM, {"broken": -1.0, "works": 7.0}, lambda plan: plan) == 7.0
    assert json.loads(path.read_text())["devices"]["A GPU"][KEY]["milliseconds"] == {"works": 7.0, "broken": None}
    tuner = make(path, Clock(), device="B")
    with tuner.tuning(), pytest.raises(RuntimeError, match="out of resource"):
        tuner.choose(PROBLEM, {"broken": -1.0}, lambda plan: plan)


def test_nothing_is_measured_during_a_capture(path: Path) -> None:
    clock = Clock()
    tuner = make(path, clock)
    with tuner.tuning(), mock.patch.object(autotune, "_capturing", return_value=True):
        assert pick(tuner) == 3.0
    assert clock.calls == 0
    assert tuned(tuner) == 1.0


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "",
        '{"format": 2, "devices": {}}',
        '{"format": 1}',
        '{"format": 1, "devices": {"A GPU": []}}',
        '{"format": 1, "devices": {"A GPU": {"x": {"choice": 3}}}}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_or_foreign_file_is_set_aside(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tuner = make(path, Clock())
    with pytest.warns(UserWarning, match=r"holds no tuned kernels .* autotune\.unreadable\.json, tune again"):
        assert pick(tuner) == 3.0
    assert path.with_name("autotune.unreadable.json").exists()
    assert tuned(tuner) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pick(make(path, Clock())) == 1.0


def test_a_home_that_cannot_be_used_does_not_stop_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file" / "home"))
    tuner = Tuner(do_bench=Clock(), device_name=lambda _: "A GPU", versions=dict)
    with pytest.warns(UserWarning, match="kernels run untuned"):
        assert tuned(tuner) == 1.0


def test_the_file_lies_in_labkits_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    tuned(Tuner(do_bench=Clock(), device_name=lambda _: "A GPU", versions=dict))
    assert KEY in (tmp_path / "autotune.json").read_text()


def test_two_processes_at_once_lose_nothing(path: Path) -> None:
    code = """
import sys
from pathlib import Path
from labkit.ops.kernels.autotune import TuningFile
for number in range(40):
    TuningFile(Path(sys.argv[1])).merge("A GPU", {f"{sys.argv[2]} {number}": {"choice": "x"}})
"""
    command = [sys.executable, "-c", code, str(path)]
    running = [subprocess.Popen([*command, name], cwd=ROOT) for name in ("a", "b")]
    assert [process.wait() for process in running] == [0, 0]
    assert len(TuningFile(path).read()["A GPU"]) == 80


def test_versions_of_this_machine_are_named() -> None:
    assert set(Tuner().versions) >= {"torch", "cuda", "driver", "kernels"}
