"""A lab's source becomes its notebooks: solutions are cut, bad sources are refused, and equal sources give equal bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.errors import InvalidRequest, LabkitError
from labkit.exercises.registry import exercise as find
from labkit.grading.lab_notebooks import cut_solutions, solved_notebook, student_notebook
from labkit.grading.release import WIDGET_VIEW, Lab, edited_by_a_person, find_labs, release, remove_widgets, stale

SOURCE = """\
# %% [markdown]
# # A lab

# %% [markdown]
# {{exercise lab00.kv_cache_bytes}}

# %%
def kv_cache_bytes(config, lengths, element_bytes):
    # BEGIN SOLUTION
    total = sum(lengths)
    return 2 * config.num_layers * config.hidden_size * total * element_bytes
    # END SOLUTION

# %%
# BEGIN SOLUTION guess = None
guess = 16807
# END SOLUTION
print("shown", 6 * 7)

# %%
print("shown", 6 * 7)
"""
SOLUTION_LINES = ["total = sum(lengths)", "return 2 * config", "16807", "SOLUTION"]


def a_lab(root: Path, source: str = SOURCE) -> Lab:
    (root / "solutions").mkdir(exist_ok=True)
    (root / "solutions" / "00_first.py").write_text(source)
    (lab,) = find_labs(root)
    return lab


def edit(path: Path, change: Any) -> None:
    notebook = json.loads(path.read_text())
    change(notebook)
    path.write_text(json.dumps(notebook))


# Cutting ----------------------------------------------------------------------------------------------------------------
def test_a_solution_in_a_function_becomes_a_stub() -> None:
    cell = "def f(x):\n    # BEGIN SOLUTION\n    y = x\n    return y\n    # END SOLUTION\n\nf(1)"
    assert cut_solutions(cell, keep=False) == 'def f(x):\n    raise NotImplementedError("f")\n\nf(1)'
    assert cut_solutions(cell, keep=True) == "def f(x):\n    y = x\n    return y\n\nf(1)"


def test_a_solution_elsewhere_becomes_what_is_given_for_it() -> None:
    cell = "a = 1\n# BEGIN SOLUTION guess = None  # GB/s\nguess = 5\n# END SOLUTION\nb = 2"
    assert cut_solutions(cell, keep=False) == "a = 1\nguess = None  # GB/s\nb = 2"
    inside = "def f():\n    # BEGIN SOLUTION x = ...\n    x = 5\n    # END SOLUTION\n    return x"
    assert cut_solutions(inside, keep=False) == "def f():\n    x = ...\n    return x"


def test_the_stub_names_the_function_whose_body_it_is() -> None:
    cell = (
        "def outer(x):\n    def helper(y):\n        return y\n    # BEGIN SOLUTION\n    def inner(z):\n        return z\n"
        "    return inner(x)\n    # END SOLUTION\n\nclass Model:\n    async def call(self):\n        # BEGIN SOLUTION\n"
        "        return 1\n        # END SOLUTION\n"
    )
    cut = cut_solutions(cell, keep=False)
    assert cut.count("NotImplementedError") == 2
    assert '    raise NotImplementedError("outer")' in cut
    assert '        raise NotImplementedError("call")' in cut
    assert "inner" not in cut


@pytest.mark.parametrize(
    "cell",
    [
        "# BEGIN SOLUTION\nx = 1\n# END SOLUTION",
        "if True:\n    # BEGIN SOLUTION\n    x = 1\n    # END SOLUTION",
        "def f():\n    return 1\n\nif True:\n    # BEGIN SOLUTION\n    x = 1\n    # END SOLUTION",
        "def f():\n    # BEGIN SOLUTION\n    return 1",
        "def f():\n    # BEGIN SOLUTION\n    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION",
        "def f():\n    return 1\n    # END SOLUTION",
    ],
)
def test_marks_that_do_not_pair_up_are_refused(cell: str) -> None:
    for keep in (True, False):
        with pytest.raises(InvalidRequest, match="SOLUTION"):
            cut_solutions(cell, keep=keep)


def test_the_student_sees_no_line_of_a_solution_anywhere() -> None:
    student, solved = nbformat.writes(student_notebook(SOURCE)), nbformat.writes(solved_notebook(SOURCE))
    assert not [line for line in SOLUTION_LINES if line in student]
    assert [line for line in SOLUTION_LINES if line in solved] == SOLUTION_LINES[:-1]
    assert 'raise NotImplementedError(\\"kv_cache_bytes\\")' in student
    assert "guess = None" in student
    assert "{{exercise" not in student


def test_headings_are_filled_in_and_cells_are_well_formed() -> None:
    notebook = student_notebook(SOURCE)
    assert notebook.cells[1].source == find("lab00.kv_cache_bytes").heading()
    assert notebook.cells[1].metadata == {"labkit": {"exercise": "lab00.kv_cache_bytes"}}
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells) == 5
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    with pytest.raises(InvalidRequest, match=r"'lab00\.nothing'"):
        student_notebook("# %% [markdown]\n# {{exercise lab00.nothing}}\n")


def test_the_same_source_gives_the_same_bytes() -> None:
    for make in (student_notebook, solved_notebook):
        assert nbformat.writes(make(SOURCE)) == nbformat.writes(make(SOURCE))
    assert nbformat.writes(student_notebook(SOURCE)) != nbformat.writes(solved_notebook(SOURCE))


# Writing ----------------------------------------------------------------------------------------------------------------
def test_a_release_writes_runs_and_guards_both_notebooks(tmp_path: Path) -> None:
    lab = a_lab(tmp_path)
    assert stale(lab) == [lab.student, lab.solved]
    assert release(lab) == [lab.student, lab.solved]
    assert stale(lab) == []
    solved, student = (nbformat.read(path, as_version=4) for path in (lab.solved, lab.student))
    assert solved.cells[3].outputs[0].text == "shown 42\n"
    assert not any(cell.get("outputs") for cell in student.cells)
    first = lab.student.read_bytes()
    release(lab)
    assert lab.student.read_bytes() == first

    lab.source.write_text(SOURCE.replace("6 * 7", "6 * 8"))  # both notebooks are out of date; after writing one, only the other
    assert stale(lab) == [lab.student, lab.solved]

    lab.source.write_text(SOURCE)
    edit(lab.student, lambda notebook: notebook["cells"][2].update(source="def kv_cache_bytes(): return 5"))
    mine = lab.student.read_bytes()
    assert edited_by_a_person(lab.student)
    assert stale(lab) == [lab.student]
    with pytest.raises(InvalidRequest, match=r"00_first\.ipynb was edited after labkit wrote it.*--force"):
        release(lab)
    assert lab.student.read_bytes() == mine
    release(lab, force=True)
    assert lab.student.read_bytes() == first


def test_what_a_person_changed_is_seen_and_what_running_changes_is_not(tmp_path: Path) -> None:
    path = tmp_path / "lab.ipynb"

    def edited(change: Any) -> bool:
        path.write_text(nbformat.writes(student_notebook(SOURCE)))
        edit(path, change)
        return edited_by_a_person(path)

    def run(notebook: Any) -> None:
        notebook["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "shown 42"}]
        notebook["cells"][3]["execution_count"] = 4

    assert not edited(lambda notebook: None)
    assert not edited(run)
    assert edited(lambda notebook: notebook["cells"].pop())
    assert edited(lambda notebook: notebook["cells"].reverse())
    assert edited(lambda notebook: notebook["cells"][0].update(source="# My lab"))
    assert edited(lambda notebook: notebook["cells"][0].update(cell_type="code"))
    assert edited(lambda notebook: notebook["metadata"].clear())
    for text in ("", "[]", "{}", "null"):
        path.write_text(text)
        assert edited_by_a_person(path)
    assert not edited_by_a_person(tmp_path / "gone.ipynb")


def test_a_damaged_notebook_is_stale(tmp_path: Path) -> None:
    lab = a_lab(tmp_path)
    lab.student.parent.mkdir()
    for text in ("", "[]", "null", '{"cells": [{}]}', '{"cells": 5}'):
        lab.student.write_text(text)
        assert lab.student in stale(lab)


def test_a_solution_that_does_not_run_writes_nothing(tmp_path: Path) -> None:
    lab = a_lab(tmp_path, SOURCE + "\n# %%\nundefined_thing + 1\n")
    with pytest.raises(LabkitError, match=r"00_first\.py does not run: (.|\n)*undefined_thing"):
        release(lab)
    assert not lab.student.exists()
    assert not lab.solved.exists()


def test_a_folder_without_labs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / "notes.py").write_text("")
    with pytest.raises(InvalidRequest, match=r"has no solutions/NN_slug\.py"):
        find_labs(tmp_path)


# Widgets ----------------------------------------------------------------------------------------------------------------
def test_of_a_widget_only_its_html_stays() -> None:
    shown = [
        {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "rounds: 0/5"},
        {WIDGET_VIEW: {"model_id": "2"}, "text/plain": "6.1", "text/html": "<b>6.1</b>"},
        {"text/plain": "7"},
    ]
    cell = nbformat.v4.new_code_cell("1")  # type: ignore[no-untyped-call]
    cell.outputs = [nbformat.v4.new_output("display_data", data) for data in shown]  # type: ignore[no-untyped-call]
    cell.outputs.append(nbformat.v4.new_output("stream", text="printed"))  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}})  # type: ignore[no-untyped-call]
    remove_widgets(notebook)
    assert [output.get("data") for output in cell.outputs] == [{"text/plain": "6.1", "text/html": "<b>6.1</b>"}, shown[2], None]
    assert "widgets" not in notebook.metadata
