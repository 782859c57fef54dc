"""The notebooks of the labs match their sources, have the required form, and run from top to bottom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.exercises.registry import of_lab
from labkit.exercises.titles import LAB_TITLES
from labkit.grading.machine_needs import missing
from labkit.grading.release import find_labs, stale
from tests.sampled import as_long

ROOT = Path(__file__).parents[2]
LABS = {lab.source.stem: lab for lab in find_labs(ROOT)}


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


def run_notebook(path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run all cells of a notebook. The time limit of each cell is long enough for all cells on a busy machine."""
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=1200", "-q"]
    command += ["-p", "no:cacheprovider", "-o", "addopts=", "-o", "timeout=0", "-p", "no:xdist", str(path)]
    environment = os.environ | {"LABKIT_HOME": str(home), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_lab_has_its_source() -> None:
    assert [name[:2] for name in LABS] == list(LAB_TITLES)


@pytest.mark.parametrize("name", LABS)
def test_notebooks_are_in_step_with_their_source(name: str) -> None:
    assert stale(LABS[name]) == [], "run `make release`"


@pytest.mark.parametrize("name", LABS)
def test_form_of_a_lab(name: str) -> None:
    student = LABS[name].student
    text, code = cells(student, "markdown"), cells(student, "code")
    assert 25 <= len(text) + len(code) <= 80
    assert 900 <= sum(len(cell.split()) for cell in text) <= 3200  # about 100 of these words are marks of the core path
    assert 4 <= len(of_lab(name[:2])) <= 10
    assert "After this lab you can" in text[0]
    assert re.search(r"\d+ minutes", text[0])
    assert "progress_panel" in code[1]
    assert max(len(cell.splitlines()) for cell in code) <= 18


@pytest.mark.parametrize("name", LABS)
def test_every_exercise_has_a_heading_a_stub_and_a_check(name: str) -> None:
    text, code = cells(LABS[name].student, "markdown"), cells(LABS[name].student, "code")
    for exercise in of_lab(name[:2]):
        assert exercise.heading() in text
        assert any(cell.startswith(f"def {exercise.function}(") for cell in code)
        assert f'    raise NotImplementedError("{exercise.function}")' in "\n".join(code)
        assert f"check({exercise.function})" in code


@pytest.mark.parametrize("name", LABS)
def test_the_student_notebook_gives_nothing_away(name: str) -> None:
    solved = "\n".join(cells(LABS[name].solved, "code")).splitlines()
    student = set("\n".join(cells(LABS[name].student, "code")).splitlines())
    source = LABS[name].source.read_text("utf-8")
    inside = [part.split("# END SOLUTION")[0].splitlines()[1:] for part in source.split("# BEGIN SOLUTION")[1:]]
    lines = {line.strip() for part in inside for line in part if len(line.strip()) > 3}
    assert len(lines) > 10
    assert lines <= {line.strip() for line in solved}
    assert not {line for line in lines if line in {given.strip() for given in student}} - {"import statistics"}
    outputs: list[Any] = [c.get("outputs") for c in json.loads(LABS[name].student.read_text("utf-8"))["cells"]]
    assert not any(outputs)


@pytest.mark.parametrize("name", LABS)
def test_solved_notebooks_show_their_outputs(name: str) -> None:
    content = json.loads(LABS[name].solved.read_text("utf-8"))
    outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    assert not [output for output in outputs if output["output_type"] == "error"]
    verdicts = [o["data"]["text/html"] for o in outputs if "labkit-verdict" in "".join(o.get("data", {}).get("text/html", ""))]
    assert len(verdicts) == len(of_lab(name[:2]))
    assert all("data-verdict='passed'" in "".join(verdict) for verdict in verdicts)


def test_every_function_of_lab_02_ran_in_the_engine_with_the_same_tokens() -> None:
    content = json.loads(LABS["02_fused_kernels"].solved.read_text("utf-8"))
    said = "".join("".join(o.get("text", "")) for cell in content["cells"] for o in cell.get("outputs", []))
    assert said.count("in the engine (") == said.count("tokens equal: True") == 9  # every function but step_seconds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner's home, in which the solved labs store their points and their measurements of the machine."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("name", [name if name.startswith("00") else as_long(name) for name in LABS])
def test_a_solved_notebook_runs_and_earns_all_points(name: str, home: Path) -> None:
    done = run_notebook(LABS[name].solved, home)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d{2,} passed", done.stdout)
    standings = json.loads((home / "progress.json").read_text("utf-8"))
    earned = {e.name: 0 if missing(e) else e.points for e in of_lab(name[:2])}
    assert {e.name: standings[e.name]["points"] for e in of_lab(name[:2])} == earned


@pytest.mark.parametrize("name", [name if name.startswith("02") else as_long(name) for name in LABS])
def test_an_unsolved_notebook_runs_without_an_exception(name: str, tmp_path: Path) -> None:
    done = run_notebook(LABS[name].student, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d{2,} passed", done.stdout)
    standings = json.loads((tmp_path / "progress.json").read_text("utf-8"))
    assert {row["points"] for row in standings.values()} == {0}
