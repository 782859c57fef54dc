"""The functions that a learner calls (`check`, `passed`, `hint`, the text of the panel), and the progress stored on disk."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.exercises.registry import all_exercises, of_lab
from labkit.exercises.registry import exercise as find
from labkit.grading import check, hint, passed, predicted, progress_panel
from labkit.grading.machine_needs import missing
from labkit.grading.progress import Progress, Standing
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, NOT_MEASURED, PASSED, Verdict
from tests.patience import PATIENCE

NAME = "lab00.kv_cache_bytes"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return tmp_path


def kv_cache_bytes(config: Any, lengths: list[int], element_bytes: int) -> int:
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes


def verdict(kind: str = PASSED, name: str = NAME) -> Verdict:
    points = find(name).points
    return Verdict(name, "title", kind, points if kind == PASSED else 0, points, "message")


def test_check_prints_the_verdict_and_keeps_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check(kv_cache_bytes)
    assert (found.verdict, found.points) == (PASSED, 10)
    assert capsys.readouterr().out == str(found) + "\n"
    standing = json.loads((home / "progress.json").read_text())[NAME]
    assert (standing["verdict"], standing["points"], standing["checks"]) == (PASSED, 10, 1)

    def kv_cache_bytes_half(config: Any, lengths: list[int], element_bytes: int) -> int:
        return kv_cache_bytes(config, lengths, element_bytes) // 2

    kv_cache_bytes_half.__name__ = "kv_cache_bytes"
    found = check(kv_cache_bytes_half)
    assert (found.verdict, found.points) == (FAILED, 0)
    assert "Your number is half of the right one" in capsys.readouterr().out
    standing = Progress().standings()[NAME]
    assert (standing.verdict, standing.points, standing.checks) == (FAILED, 10, 2)  # earned points are never lost


def test_what_a_function_prints_is_shown_once_and_with_the_input_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def talks(config: Any, lengths: list[int], element_bytes: int) -> int:
        seen.append(1)
        print("call", len(seen))
        return kv_cache_bytes(config, lengths, element_bytes) * (len(seen) != 3)

    talks.__name__ = "kv_cache_bytes"
    found = check(talks)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("call")] == ["call 1"]
    assert [line for line in found.details.splitlines() if "printed" in line] == ["printed: call 3"]
    assert not passed(talks) or len(seen) > 3
    assert "call" not in capsys.readouterr().out.replace("calls", "")

    def interrupted(config: Any, lengths: list[int], element_bytes: int) -> int:
        seen.append(1)
        print("last words of", len(seen))
        if len(seen) > 1:
            raise KeyboardInterrupt
        return kv_cache_bytes(config, lengths, element_bytes)

    interrupted.__name__ = "kv_cache_bytes"
    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        check(interrupted)
    assert capsys.readouterr().out == "last words of 1\nlast words of 2\n"


def wrong(config: Any, lengths: list[int], element_bytes: int) -> int:
    return kv_cache_bytes(config, lengths, element_bytes) // 2


wrong.__name__ = "kv_cache_bytes"
KEPT = "passed before (10 points kept); the last check failed"
WHY = "Your number is half of the right one: the cache stores a key and also a value for each token."


def test_after_a_pass_a_wrong_check_is_one_state_everywhere(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from labkit.grading.panel import _table

    check(kv_cache_bytes)
    capsys.readouterr()
    found = check(wrong)
    said = capsys.readouterr().out
    assert said.startswith(f"✗ {found.title}: {KEPT}: {WHY}")
    assert "0/10" not in said
    assert f"{KEPT}</b><br>{WHY}" in found.html(kept=10)
    progress_panel("00")
    assert f"✓ {found.title}, 10/10 points: {KEPT}: {WHY}\n" in capsys.readouterr().out
    assert f"<td>10/10</td><td style='text-align:left;color:#009E73'>{KEPT}: {WHY}</td>" in _table("00")
    standing = json.loads((home / "progress.json").read_text())[NAME]
    assert (standing["verdict"], standing["points"], standing["message"]) == (FAILED, 10, WHY)
    assert not passed(wrong)
    now = f"It passed before (10 points kept), but what you have now fails: {WHY}"
    assert capsys.readouterr().out == f"This cell needs your kv_cache_bytes (exercise 0.3). {now}\n"
    check(kv_cache_bytes)
    capsys.readouterr()
    progress_panel("00")
    assert f"✓ {found.title}, 10/10 points: passed\n" in capsys.readouterr().out


def test_states_after_a_pass_and_without_one() -> None:
    for kinds, words in [
        ((FAILED,), "failed: message"),
        ((PASSED,), "passed"),
        ((PASSED, FAILED), f"{KEPT}: message"),
        ((PASSED, NOT_ATTEMPTED), "passed"),
        ((PASSED, FAILED, NOT_ATTEMPTED), "passed before (10 points kept); the last check found it not attempted"),
        ((PASSED, NOT_MEASURED), "passed before (10 points kept); the last check could not measure it here"),
        ((FAILED, NOT_ATTEMPTED), "not attempted"),
        ((FAILED, PASSED), "passed"),
    ]:
        (Progress().path).unlink(missing_ok=True)
        for kind in kinds:
            standing = Progress().record(verdict(kind))
        assert (standing.words, standing.points) == (words, 10 if PASSED in kinds else 0), kinds
        assert Progress().standings()[NAME] == standing


def test_points_kept_do_not_count_for_a_notebook_as_it_is_now(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`labkit check` and graders judge the functions in the notebook's file. They neither use nor change the recorded progress
    of the learner.
    """
    from labkit.cli.check import check as check_command

    check(kv_cache_bytes)
    before = (tmp_path / "progress.json").read_text()
    source = "def kv_cache_bytes(config, lengths, element_bytes):\n    return len(lengths)"
    path = tmp_path / "lab.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source}]}))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        check_command([path])
    said = capsys.readouterr().out
    assert "✗ 0.3 The size of the cache: failed, 0/10 points. " in said
    total = sum(exercise.points for exercise in of_lab("00"))
    core = sum(exercise.points for exercise in of_lab("00") if exercise.core)
    whole = f"0 of {total} points for the present code of the notebooks; core path: 0 of {core} points"
    assert said.splitlines()[-1] == whole
    assert (tmp_path / "progress.json").read_text() == before


def test_hints_are_counted_in_the_panel() -> None:
    from labkit.grading.panel import _table

    for words in ("0/10, 1 hint<", "0/10, 2 hints<"):
        Progress().next_hint(NAME)
        assert words in _table("00")


def test_a_function_of_no_exercise_is_refused_with_those_that_exist() -> None:
    for call in (check, passed, hint):
        with pytest.raises(InvalidRequest, match=r"no exercise asks for .*kv_cache_bytes"):
            call(lambda: 5)  # type: ignore[operator]
    with pytest.raises(InvalidRequest, match="'kv_bytes'"):
        hint("kv_bytes")


def test_a_function_of_another_name_is_found_by_the_notebooks_name_for_it() -> None:
    names: dict[str, Any] = {"check": check, "hint": hint, "passed": passed, "mine": kv_cache_bytes}
    exec("kv_cache_bytes = lambda *given: mine(*given)\nfound = check(kv_cache_bytes)\nis_done = passed(kv_cache_bytes)", names)
    assert (names["found"].exercise, names["found"].verdict, names["is_done"]) == (NAME, PASSED, True)
    with pytest.raises(InvalidRequest, match="asks for a function with the name '<lambda>'"):
        exec("other = lambda: 5\ncheck(other)", names)


def test_a_verdict_is_short_whatever_is_raised_or_printed() -> None:
    def raises(config: Any, lengths: list[int], element_bytes: int) -> int:
        print("x" * 300_000)
        raise type("E" * 300_000, (Exception,), {})("y" * 300_000)

    raises.__name__ = "kv_cache_bytes"
    found = check(raises)
    assert found.verdict == FAILED
    assert len(found.message) < 1001
    assert len(found.details) < 2000


def test_passed_says_what_to_solve_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert passed(kv_cache_bytes)
    assert not passed("kv_cache_bytes")  # if only a name is given, the function that was checked before is meant
    assert "kv_cache_bytes (exercise 0.3). Solve it first." in capsys.readouterr().out
    check(kv_cache_bytes)
    assert passed("kv_cache_bytes")

    def weight_gib(parameters: int, precision: str, group_size: int) -> float:
        raise NotImplementedError("weight_gib")

    assert not passed(weight_gib)
    assert capsys.readouterr().out.endswith("This cell needs your weight_gib (exercise 0.2). Solve it first.\n")
    assert not passed(wrong)
    Progress().path.unlink()
    capsys.readouterr()
    assert not passed(wrong)
    assert capsys.readouterr().out == f"This cell needs your kv_cache_bytes (exercise 0.3). It fails: {WHY}\n"


def test_hints_come_one_after_the_other_and_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (1, 2, 3):
        hint(kv_cache_bytes)
        said = capsys.readouterr().out
        assert said.startswith(f"Hint {number} of 3 for 0.3: ")
        assert find(NAME).hints[number - 1] in said
    hint(kv_cache_bytes)  # after the third hint, all hints are shown again
    assert [line[:6] for line in capsys.readouterr().out.splitlines()] == ["Hint 1", "Hint 2", "Hint 3"]
    assert Progress().standings()[NAME].hints == 3
    assert Progress().standings()["lab00.weight_gib"].hints == 0


def test_the_panel_has_a_text_twin(capsys: pytest.CaptureFixture[str]) -> None:
    from labkit.grading.panel import _table

    check(kv_cache_bytes)
    capsys.readouterr()
    progress_panel("00")
    said = capsys.readouterr().out
    assert f"✓ 0.3 {find(NAME).title}, 10/10 points: passed" in said
    assert said.startswith("extra · 0.1")
    assert "\ncore  · 0.2" in said
    left = sum(e.minutes for e in of_lab("00")) - find(NAME).minutes
    core = [e for e in of_lab("00") if e.core]
    core_left = sum(e.minutes for e in core) - find(NAME).minutes
    sums = sum(e.points for e in of_lab("00")), sum(e.points for e in core)
    assert find(NAME) in core
    assert len(core) < 6
    assert said.splitlines()[-4:] == [
        f"Lab 00: 10 of {sums[0]} points; core path: 10 of {sums[1]} points",
        f"1 of 6 exercises done; 0 not measured here; about {left} minutes of exercises left",
        f"Core path: 1 of {len(core)} exercises done; 0 not measured here; about {core_left} minutes of exercises left",
        "Hints cost no points. See hint(my_function). After a pass, see solution(my_function).",
    ]
    shown = _table("00")
    assert all(f"{line}<" in shown for line in said.splitlines()[-4:-1])
    assert "<td>0.1</td><td>extra</td>" in shown
    assert "<td>0.3</td><td>core</td>" in shown
    with pytest.raises(InvalidRequest, match="there is no lab '77'"):
        progress_panel("77")


def test_the_panel_tells_what_is_not_measured_here_and_when_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from labkit.grading.panel import _table

    lacks = "needs a Triton Inference Server (`labkit serve --install` gets one)"
    monkeypatch.setattr("labkit.grading.machine_needs.find_server", lambda: None)
    serving = [e for e in of_lab("04") if "triton_server" in e.requires]
    Progress().record(verdict(name=serving[0].name))
    progress_panel("04")
    said = capsys.readouterr().out
    elsewhere = serving[1:]
    left, there = sum(e.minutes for e in of_lab("04")) - serving[0].minutes, sum(e.minutes for e in elsewhere)
    words = (
        f"1 of {len(of_lab('04'))} exercises done; {len(elsewhere)} not measured here; "
        f"about {left} minutes of exercises left, {there} of them for exercises that are not measured here"
    )
    assert words in said
    assert f"{elsewhere[0].title}, 0/{elsewhere[0].points} points: not measured here: {lacks}\n" in said
    assert f"{serving[0].title}, {serving[0].points}/{serving[0].points} points: passed\n" in said
    assert words in _table("04")
    assert "Hints cost no points." in _table("04")
    for exercise in of_lab("00"):
        Progress().record(verdict(name=exercise.name))
    progress_panel("00")
    assert "6 of 6 exercises done; 0 not measured here; nothing left to do\n" in capsys.readouterr().out


def test_predictions_are_positive_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(a=1, b=0.5)
    assert capsys.readouterr().out == ""
    assert not predicted(a=1, first=None, second="5", third=0, fourth=float("nan"), fifth=True)
    assert "first, second, third, fourth, fifth, a number above 0." in capsys.readouterr().out


def test_a_prediction_above_a_known_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(kernels=20, at_most=20)
    assert not capsys.readouterr().out
    assert not predicted(kernels=25, at_most=20)
    assert "kernels, a number above 0 and at most 20" in capsys.readouterr().out
    assert not predicted(kernels=0, at_most=20)


def test_predicted_shares_lie_between_0_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(a=0, b=1, c=0.3, as_share=True)
    assert predicted(a=0, b=100, as_percent=True)
    assert capsys.readouterr().out == ""
    assert not predicted(a=0.5, first=33, second=-0.1, third=None, as_share=True)
    assert "first, second, third, a share from 0 to 1 (a half is 0.5, not 50)." in capsys.readouterr().out
    assert not predicted(a=101, as_percent=True)
    assert "a, a percentage from 0 to 100" in capsys.readouterr().out


# What the machine lacks -------------------------------------------------------------------------------------------------
def test_what_is_missing_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from labkit.environment import GPU, describe
    from labkit.grading.check import check_quietly

    gpu = GPU(0, "NVIDIA H100", 80 * 2**30, "570", "9.0", "gen 5 x16", 18)
    none = replace(describe(), gpus=())
    one, two = replace(none, gpus=(gpu,)), replace(none, gpus=(gpu, gpu))
    server = "a Triton Inference Server (`labkit serve --install` gets one)"
    monkeypatch.setattr("labkit.grading.machine_needs.find_server", lambda: None)
    for requires, on_none, on_one in [
        ((), "", ""),
        (("cuda",), "needs an NVIDIA GPU", ""),
        (("two_gpus",), "needs two NVIDIA GPUs", "needs two NVIDIA GPUs"),
        (("cuda", "triton_server"), f"needs an NVIDIA GPU and {server}", f"needs {server}"),
    ]:
        exercise = replace(find(NAME), requires=requires)
        assert [missing(exercise, machine) for machine in (none, one, two)][:2] == [on_none, on_one]
        assert missing(exercise, two) == (f"needs {server}" if "triton_server" in requires else "")
    monkeypatch.setattr("labkit.grading.machine_needs.find_server", lambda: Path("/bin/tritonserver"))
    assert missing(replace(find(NAME), requires=("triton_server",)), two) == ""
    monkeypatch.setattr("labkit.grading.machine_needs.describe", lambda: none)
    found = check_quietly(replace(find(NAME), requires=("cuda",)), kv_cache_bytes)
    assert (found.verdict, found.points) == (NOT_MEASURED, 0)
    assert found.message == "This exercise needs an NVIDIA GPU, which this machine does not have."


# Progress ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", "null", "7", '{"x": 5}', '{"x": {"unknown": 1}}', '{"lab00.kv_cache_bytes": {"points": "ten"}}', "\x00"],
)
def test_a_damaged_file_is_kept_aside_and_work_goes_on(text: str, home: Path) -> None:
    (home / "progress.json").write_text(text)
    progress = Progress()
    assert progress.standings()[NAME] == Standing()
    assert (home / "progress.damaged").read_text() == text
    progress.record(verdict())
    assert progress.next_hint(NAME) == 0
    standing = Progress().standings()[NAME]
    assert (standing.verdict, standing.points, standing.hints) == (PASSED, 10, 1)


def test_an_older_labkit_keeps_the_record_of_a_newer_one_and_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = {NAME: asdict(Standing(PASSED, points=10)) | {"streak": 3}}
    (home / "progress.json").write_text(json.dumps(newer))
    assert Progress().standings()[NAME] == Standing()
    assert json.loads((home / "progress.damaged").read_text()) == newer
    said = capsys.readouterr().err
    assert "was written by a newer version of labkit, so labkit has renamed it to progress.damaged" in said
    assert said.endswith("install the newer version, and rename it to progress.json.\n")
    Progress().record(verdict(FAILED))
    assert json.loads((home / "progress.damaged").read_text()) == newer
    assert capsys.readouterr().err == ""


def test_every_exercise_has_a_standing_and_what_is_unknown_is_kept() -> None:
    assert set(Progress().standings()) == {exercise.name for exercise in all_exercises()}
    Progress().record(Verdict("lab42.later", "title", PASSED, 5, 5, "message"))
    Progress().record(verdict(FAILED))
    assert Progress().standings()["lab42.later"].points == 5


def test_an_untouched_stub_does_not_undo_a_pass() -> None:
    for kind in (PASSED, NOT_ATTEMPTED):
        Progress().record(verdict(kind))
    standing = Progress().standings()[NAME]
    assert (standing.verdict, standing.points, standing.checks) == (PASSED, 10, 1)


def _write(path: Path, name: str, times: int) -> None:
    for _ in range(times):
        Progress(path).record(verdict(FAILED, name))


def test_writers_at_the_same_time_lose_nothing(home: Path) -> None:
    path = home / "deep" / "progress.json"
    names = [exercise.name for exercise in of_lab("00")][:4]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(path, name, 25)) for name in [*names, names[0]]]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 5
    standings = Progress(path).standings()
    assert [standings[name].checks for name in names] == [50, 25, 25, 25]
    assert not list(path.parent.glob("*.damaged"))
