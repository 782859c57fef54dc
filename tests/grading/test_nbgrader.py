"""The parts of a lab's notebook that nbgrader uses: the cells' metadata, and a check that gives points or raises an error."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.exercises.registry import all_exercises
from labkit.grading import check
from labkit.grading.nbgrader_cells import answer_id, check_id
from labkit.grading.nbgrader_run import EXECUTION, NoPoints
from labkit.grading.progress import Progress
from tests.grading.test_check import NAME, kv_cache_bytes

ROOT = Path(__file__).parents[2]


def test_every_exercise_has_an_answer_cell_and_a_check_cell() -> None:
    """The ids are unique over all labs, and nbgrader's own validator accepts them."""
    from nbgrader.nbgraderformat import MetadataValidator

    found: dict[str, Any] = {}
    for path in sorted((ROOT / "labs").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        MetadataValidator().validate_nb(notebook)
        for cell in notebook.cells:
            if "nbgrader" in cell.metadata:
                assert cell.metadata.nbgrader.grade_id not in found
                found[cell.metadata.nbgrader.grade_id] = cell
    assert len(found) == 2 * len(all_exercises())
    for exercise in all_exercises():
        answer, checking = found[answer_id(exercise)], found[check_id(exercise)]
        assert f"def {exercise.function}(" in answer.source
        assert (answer.metadata.nbgrader.solution, answer.metadata.nbgrader.grade) == (True, False)
        assert checking.source == f"check({exercise.function})"
        row = checking.metadata.nbgrader
        assert (row.solution, row.grade, row.locked, row.points) == (False, True, True, exercise.points)


@pytest.fixture
def nbgrader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code run as if nbgrader executed it."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.setenv(EXECUTION, "autograde")


@pytest.mark.usefixtures("nbgrader")
def test_a_pass_is_printed_and_not_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    def kv_cache_bytes(config: Any, lengths: list[int], element_bytes: int) -> int:
        print("a warning", file=sys.stderr)
        return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes

    assert check(kv_cache_bytes).points == 10
    said = capsys.readouterr()
    assert "passed, 10/10 points" in said.out
    assert "a warning" in said.out
    assert said.err == ""
    assert Progress().standings()[NAME].checks == 0


@pytest.mark.usefixtures("nbgrader")
def test_all_else_raises_the_verdict_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    def kv_cache_bytes(config: Any, lengths: list[int], element_bytes: int) -> int:
        return config.num_layers * config.hidden_size * sum(lengths) * element_bytes

    with pytest.raises(NoPoints, match=r"failed, 0/10 points\. Your number is half") as raised:
        check(kv_cache_bytes)
    lines = raised.value._render_traceback_()
    assert max(map(len, lines)) <= 80
    assert "".join("".join(lines).split()) == "".join(str(raised.value).split())
    assert Progress().standings()[NAME].checks == 0


def test_without_nbgrader_nothing_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    monkeypatch.delenv(EXECUTION, raising=False)
    assert check(kv_cache_bytes).points == 10
    assert json.loads((tmp_path / "progress.json").read_text())[NAME]["checks"] == 1
