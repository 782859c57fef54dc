"""The core path of each lab takes an hour at most, is marked in the notebook, and needs no extra exercise."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
import symtable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from labkit.exercises.core_path import CORE, FULL, MOST_CORE_MINUTES, SECTION_MINUTES, minutes_of, on_track, points_of
from labkit.exercises.registry import of_lab
from labkit.grading.core_marks import EXTRA, SKIP, exercise_of, kind_of
from labkit.grading.core_notebook import core_notebook
from labkit.grading.lab_notebooks import cells_digest, solved_notebook, student_notebook
from labkit.grading.machine_needs import missing
from tests.labs.test_notebooks import LABS, run_notebook

LEAST_EXERCISES = 2


@pytest.fixture(params=LABS)
def name(request: pytest.FixtureRequest) -> str:
    """The file name of each lab, without its suffix."""
    return str(request.param)


@pytest.fixture
def student(name: str) -> Any:
    """The learner's notebook of a lab."""
    return nbformat.read(LABS[name].student, as_version=4)


def test_the_core_path_takes_an_hour_at_most(name: str) -> None:
    lab = name[:2]
    core, sections = on_track(lab, CORE), SECTION_MINUTES[lab]
    assert LEAST_EXERCISES <= len(core) < len(of_lab(lab))
    assert 0 < sections.core <= sections.full
    assert minutes_of(lab, CORE) == sum(exercise.minutes for exercise in core) + sections.core <= MOST_CORE_MINUTES


def test_headings_and_the_head_of_the_lab_say_what_is_core(student: Any, name: str) -> None:
    lab, head = name[:2], student.cells[0].source
    said = [cell.source.splitlines()[0] for cell in student.cells if cell.source.startswith("### Exercise")]
    assert said == [f"### Exercise {one.number} ({'core' if one.core else 'extra'}) · {one.title}" for one in of_lab(lab)]
    assert f"About {minutes_of(lab, FULL)} minutes" in head
    assert f"**Core path:** about {minutes_of(lab, CORE)} minutes, exercises " in head
    assert f"({points_of(lab, CORE)} points)" in head
    assert all(one.number in head or "to" in head for one in on_track(lab, CORE))


def test_a_note_before_extras_says_where_to_go_on(student: Any) -> None:
    """The cells after each note, up to the section that the note names, are extras. Together, these cells have all extra
    exercises and no other exercise.
    """
    cells = student.cells
    for place, cell in enumerate(cells):
        if exercise := exercise_of(cell):
            assert exercise.core == (kind_of(cell) != EXTRA), exercise.name
        if kind_of(cell) == EXTRA and kind_of(cells[place - 1]) != EXTRA:
            note = cells[place - 1]
            assert kind_of(note) == SKIP
            end = next(later for later in range(place, len(cells)) if kind_of(cells[later]) != EXTRA)
            title = cells[end].source.splitlines()[0].lstrip("# ")
            core = [exercise for later in cells[end:] if (exercise := exercise_of(later)) and exercise.core]
            number = f"exercise {core[0].number}: " if core else ""
            assert note.source.startswith(f"**On the core path, continue with {number}[{title}](#{title.replace(' ', '-')}).**")
    notes = [place for place, cell in enumerate(cells) if kind_of(cell) == SKIP]
    assert notes
    assert all(kind_of(cells[place + 1]) == EXTRA for place in notes)


def test_no_cell_of_the_core_path_uses_a_name_of_an_extra(student: Any) -> None:
    """Because of this, the core path runs even if the cells of the extras are never run or are not in the notebook."""
    known = {*dir(builtins), "display"}
    for cell in core_notebook(student).cells:
        if cell.cell_type == "code":
            table = symtable.symtable(cell.source, "cell", "exec")
            known |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
            assert read_outside(table) <= known, cell.source


def read_outside(table: symtable.SymbolTable) -> set[str]:
    """The names that a cell or its functions read, except local names of a function."""
    is_cell = table.get_type() == "module"
    names = {one.get_name() for one in table.get_symbols() if one.is_referenced() and (is_cell or one.is_global())}
    return names.union(*(read_outside(child) for child in table.get_children()))


def test_the_notebook_with_only_the_core_path(student: Any, name: str) -> None:
    core, before = core_notebook(student), json.dumps(student)
    assert json.dumps(student) == before
    nbformat.validate(core)
    text = "\n".join(cell.source for cell in core.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in core.cells if cell.cell_type == "code")
    assert "**This notebook contains only the core path.**" in core.cells[0].source
    assert f"About {minutes_of(name[:2], CORE)} minutes · " in core.cells[0].source
    assert "On the core path, continue with" not in text
    assert "good place for a break" not in text
    for exercise in of_lab(name[:2]):
        assert (exercise.heading() in text) == exercise.core
        assert (f"def {exercise.function}(" in code) == exercise.core
        assert (f"check({exercise.function})" in code) == exercise.core
    assert set(core.metadata.labkit.stubs) == {exercise.function for exercise in on_track(name[:2], CORE)}
    assert core.metadata.labkit.track == CORE
    assert core.metadata.labkit.cells_sha256 == cells_digest(core) != cells_digest(student)
    assert core_notebook(core) == core


def only_core_solved(name: str) -> Any:
    """The notebook of a learner who has solved the core path's exercises and made the core path's predictions, but left the
    extras as they were.
    """
    source = LABS[name].source.read_text("utf-8")
    notebook, solutions = student_notebook(source), solved_notebook(source)
    for cell, other in zip(notebook.cells, solutions.cells, strict=True):
        if kind_of(cell) != EXTRA:
            cell.source = other.source
    return notebook


def run_in_full() -> list[str]:
    """The labs whose core path this test runs: every lab in which a core cell uses an extra, and one lab that a hash of the
    sources chooses.

    A run takes up to two minutes. In the remaining labs, no core cell uses an extra (another test of this file checks this),
    and other tests run the solved and the unsolved notebook.
    """
    sources = {name: lab.source.read_text("utf-8") for name, lab in LABS.items()}
    chosen = int(hashlib.sha256("".join(sources.values()).encode()).hexdigest(), 16) % len(LABS)
    return sorted({list(LABS)[chosen], *(name for name, source in sources.items() if "[solved(" in source)})


@pytest.mark.long
@pytest.mark.parametrize("name", run_in_full())
def test_with_only_the_core_path_solved_the_notebook_runs_to_its_end(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(only_core_solved(name), path)
    done = run_notebook(path, tmp_path / "home")
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d{2,} passed", done.stdout)
    standings = json.loads((tmp_path / "home" / "progress.json").read_text("utf-8"))
    earned = {one.name: one.points if one.core and not missing(one) else 0 for one in of_lab(name[:2])}
    assert {one.name: standings[one.name]["points"] for one in of_lab(name[:2])} == earned
