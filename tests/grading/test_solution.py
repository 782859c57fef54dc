"""The solution of an exercise is only shown after a pass, or after the learner gives up, which is recorded."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import InvalidRequest, NotAvailable
from labkit.exercises.registry import all_exercises
from labkit.exercises.registry import exercise as find
from labkit.grading import check, passed, progress_panel, solution
from labkit.grading.progress import Progress
from labkit.grading.solution import difference
from labkit.grading.solution_source import solution_of
from labkit.grading.stubs import stub_of
from tests.gradebook.classes import SOLVED, notebook, write

ROOT = Path(__file__).parents[2]
NAME = "lab00.kv_cache_bytes"
ANSWER = "return 2 * config.num_layers * config.hidden_size"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return tmp_path / "home"


def kv_cache_bytes(config: Any, lengths: list[int], element_bytes: int) -> int:
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes


def defined(text: str) -> set[str]:
    return {part.name for part in ast.parse(text).body if isinstance(part, ast.FunctionDef)}


def no_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let labkit run as from a wheel, with no course files beside the package."""
    monkeypatch.setattr("labkit.__file__", str(tmp_path / "site-packages" / "labkit" / "__init__.py"))
    (tmp_path / "labs").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "labs")


# Where it is found ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lab", sorted({exercise.lab for exercise in all_exercises()}))
def test_every_exercise_has_a_solution_for_all_that_its_stub_defines(lab: str) -> None:
    (path,) = (ROOT / "labs").glob(f"{lab}_*.ipynb")
    student = json.loads(path.read_text("utf-8"))
    for exercise in (each for each in all_exercises() if each.lab == lab):
        found = solution_of(exercise)
        stub = stub_of(student, exercise.function)
        assert stub is not None
        assert exercise.function in defined(found.text)
        assert defined(stub) <= defined(found.text)
        assert "NotImplementedError" not in found.text
        assert found.path.parent == ROOT / "solutions"


def test_the_source_serves_as_well_as_the_notebook(tmp_path: Path) -> None:
    pytest.importorskip("jupytext", reason="not measured here: no jupytext")
    (tmp_path / "solutions").mkdir()
    shutil.copy(ROOT / "solutions" / "00_class_environment.py", tmp_path / "solutions")
    found = solution_of(find(NAME), tmp_path)
    assert found.text == solution_of(find(NAME)).text
    assert found.path.suffix == ".py"


def test_around_the_notebook_when_nothing_is_beside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_repository(monkeypatch, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere / "solutions" / "00_x.ipynb", notebook("a = 1", SOLVED))
    with pytest.raises(NotAvailable, match=r"has no solution of exercise 0\.3; ask your instructor"):
        solution_of(find(NAME))
    monkeypatch.setenv("JPY_SESSION_NAME", str(elsewhere / "labs" / "00_x.ipynb"))
    assert solution_of(find(NAME)).text == SOLVED
    write(tmp_path / "solutions" / "00_a.ipynb", "not JSON")
    write(tmp_path / "solutions" / "00_b.ipynb", notebook(SOLVED + "  # here"))
    monkeypatch.delenv("JPY_SESSION_NAME")
    assert solution_of(find(NAME)).text.endswith("# here")
    with pytest.raises(NotAvailable, match=re.escape(f"{elsewhere / 'none'} has no solution")):
        solution_of(find(NAME), elsewhere / "none")


# When it is shown -------------------------------------------------------------------------------------------------------
def test_not_before_a_pass(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    solution(kv_cache_bytes)
    said = capsys.readouterr().out
    assert said.startswith("Exercise 0.3 (kv_cache_bytes) has not passed yet.")
    assert "To give up: solution(kv_cache_bytes, give_up=True)" in said
    assert ANSWER not in said
    assert not (home / "progress.json").exists()
    with pytest.raises(InvalidRequest, match="asks for a function with the name 'kv_bytes'"):
        solution("kv_bytes", give_up=True)


def test_after_a_pass_it_is_free(capsys: pytest.CaptureFixture[str]) -> None:
    check(kv_cache_bytes)
    capsys.readouterr()
    for give_up in (False, True):
        solution("kv_cache_bytes", give_up=give_up)
        said = capsys.readouterr().out
        assert f"The solution of exercise 0.3, from {ROOT / 'solutions' / '00_class_environment.ipynb'}:\n\ndef kv_c" in said
        assert ANSWER in said
        assert said.endswith("No cell was changed. Your points are kept.\n")
        standing = Progress().standings()[NAME]
        assert (standing.given_up, standing.earned) == (False, 10)


def test_after_giving_up_the_exercise_earns_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    solution(kv_cache_bytes, give_up=True)
    said = capsys.readouterr().out
    assert ANSWER in said
    assert "It is recorded that you gave up: this exercise earns no new points." in said
    solution("kv_cache_bytes")  # shown again without asking
    assert ANSWER in capsys.readouterr().out
    check(kv_cache_bytes)
    assert "The solution was shown before, so this exercise earns no points." in capsys.readouterr().out
    standing = Progress().standings()[NAME]
    assert (standing.verdict, standing.given_up, standing.earned) == ("passed", True, 0)
    assert passed("kv_cache_bytes")  # later cells that need the function run
    progress_panel("00")
    said = capsys.readouterr().out
    assert "✓ 0.3 The size of the cache, 0/10 points: given up: solution shown; passed" in said
    assert "Lab 00: 0 of 65 points" in said


def test_without_solutions_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_repository(monkeypatch, tmp_path)
    solution(kv_cache_bytes, give_up=True)
    assert "This copy of the course has no solution of exercise 0.3; ask your instructor" in capsys.readouterr().out
    assert not Progress().standings()[NAME].given_up


@pytest.mark.parametrize("who", ["labkit check", "nbgrader"])
def test_a_notebook_that_is_run_by_a_grader_shows_and_records_nothing(
    who: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if who == "nbgrader":
        monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    else:
        monkeypatch.setattr(Progress, "is_kept", False)
    solution(kv_cache_bytes, give_up=True)
    assert capsys.readouterr().out == ""
    assert not Progress().standings()[NAME].given_up


# What differs -----------------------------------------------------------------------------------------------------------
def test_the_lines_that_differ_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    check(kv_cache_bytes)
    capsys.readouterr()
    solution(kv_cache_bytes)
    said = capsys.readouterr().out.split("What differs (- your function, + the solution):\n")[1]
    assert "-def kv_cache_bytes(config: Any, lengths: list[int], element_bytes: int) -> int:\n" in said
    assert "+def kv_cache_bytes(" in said
    assert "@@" not in said


def test_there_is_no_difference_of_what_is_equal_or_unknown() -> None:
    text = "import math\n\n\ndef kv_cache_bytes(a):\n    return a\n"
    scope: dict[str, Any] = {}
    exec(text, scope)
    assert difference(scope["kv_cache_bytes"], text, "kv_cache_bytes") == ""  # the source of this function is not known
    own = (ROOT / "tests" / "grading" / "test_solution.py").read_text("utf-8")
    assert difference(kv_cache_bytes, own, "kv_cache_bytes") == ""
    assert difference(kv_cache_bytes, "def other(): pass", "kv_cache_bytes") == ""
    assert difference(kv_cache_bytes, "def broken(", "kv_cache_bytes") == ""
    assert difference(len, text, "kv_cache_bytes") == ""


# The widget -------------------------------------------------------------------------------------------------------------
def test_the_panel_asks_before_a_learner_gives_up() -> None:
    pytest.importorskip("ipywidgets", reason="not measured here: no ipywidgets")
    from labkit.grading.panel import _widget

    widget = _widget("00")
    table, controls, said = widget.children
    chooser, _, box, _ = controls.children
    button, give_up = box.children
    chooser.value = NAME
    button.click()
    assert "has not passed yet" in said.value
    assert give_up.layout.display == ""
    chooser.value = "lab00.weight_gib"  # the offer was for the other exercise
    assert give_up.layout.display == "none"
    check(kv_cache_bytes)
    chooser.value = NAME
    button.click()
    assert ANSWER in said.value
    chooser.value = "lab00.weight_gib"
    button.click()
    give_up.click()
    assert "this exercise earns no new points" in said.value
    assert "given up: solution shown" in table.value
    assert give_up.layout.display == "none"
    assert [Progress().standings()[name].given_up for name in (NAME, "lab00.weight_gib")] == [False, True]
