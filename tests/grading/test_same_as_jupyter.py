"""`labkit check` and `check` in Jupyter give the same verdict: a real kernel runs every notebook of `awkward.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.exercises.registry import all_exercises
from labkit.grading.notebook_check import check_submission
from labkit.grading.notebook_kernel import run_cells
from labkit.grading.submission import read_submission
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, PASSED
from labkit.grading.workers import Workers
from tests.grading.awkward import CASES, FAILING, NAME
from tests.sampled import chosen, one_in

BEGIN = """
__import__("torch").set_grad_enabled(True)
for _ in set(globals()) - {"In", "Out", "get_ipython", "exit", "quit", "open"}:
    if not _.startswith("_"):
        del globals()[_]
"""
"""Code that removes all names except those that a new notebook has. `%reset` would also collect garbage, which is slow with
torch.
"""
ASK = f"""from labkit.grading import check
print("verdict", __import__("json").dumps((lambda v: [v.verdict, v.points, v.message])(check({NAME}))))"""


def write(path: Path, cells: list[str]) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("notebooks")
    (place / "beside.py").write_text("ONE = 1\n")
    (place / "one.txt").write_text("1\n")
    (place / "more").mkdir()
    (place / "more" / "further.py").write_text("ONE = 1\n")
    return place


@pytest.fixture(scope="module")
def in_jupyter(folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """For each notebook, the result of `check` in a kernel, as [verdict, points, message], or the error that it raised."""
    notebook = nbformat.v4.new_notebook()
    last: dict[str, int] = {}
    for name in chosen("name", request):
        cells = CASES[name]
        notebook.cells += [nbformat.v4.new_code_cell(source) for source in [BEGIN, *cells, ASK]]
        last[name] = len(notebook.cells) - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_HOME", str(folder / "home"))
        run_cells(notebook, folder, timeout=1200, allow_errors=True)
    return {name: said_by(notebook.cells[number]) for name, number in last.items()}


def said_by(cell: Any) -> Any:
    said = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")  # stdout may come in pieces
    found = [json.loads(line.removeprefix("verdict ")) for line in said.splitlines() if line.startswith("verdict ")]
    return found[0] if found else next(output.ename for output in cell.outputs if output.output_type == "error")


@pytest.fixture(scope="module")
def checked(folder: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """The result of `labkit check` for each notebook, as [verdict, points, message]."""
    found = {}
    (asked,) = [exercise for exercise in all_exercises() if exercise.name.endswith(NAME)]
    with Workers(folder) as workers:
        for number, name in enumerate(chosen("name", request)):
            submission = read_submission(write(folder / f"{number}.ipynb", CASES[name]))
            verdict = check_submission(asked, submission, workers)
            found[name] = [verdict.verdict, verdict.points, verdict.message]
    return found


@pytest.mark.parametrize("name", one_in(5, CASES))
def test_the_verdict_is_that_of_jupyter(name: str, in_jupyter: dict[str, Any], checked: dict[str, Any]) -> None:
    if isinstance(in_jupyter[name], str):  # there was nothing to check
        assert in_jupyter[name] == "NameError"
        assert checked[name][:2] in ([FAILED, 0], [NOT_ATTEMPTED, 0])
    else:
        assert checked[name] == in_jupyter[name]


@pytest.mark.parametrize("name", one_in(5, CASES))
def test_the_verdict_is_the_one_that_is_due(name: str, checked: dict[str, Any]) -> None:
    assert (checked[name][0] == PASSED) == (name not in FAILING), checked[name]
    assert len(checked[name][2]) < 1000
