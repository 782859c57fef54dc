"""Finds the solution of an exercise: the cell of a solved notebook, or of its source, that defines the exercise's function."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import labkit
from labkit.errors import InvalidRequest, NotAvailable
from labkit.exercises.exercise import Exercise
from labkit.grading.notebook_file import FileCell, read_cells
from labkit.grading.stub_text import defining_cells


@dataclass(frozen=True)
class Solution:
    """The text of the solved cell, and the file from which it was read."""

    text: str
    path: Path


def solution_of(exercise: Exercise, course: Path | None = None) -> Solution:
    """The solution of an exercise, from the folder `solutions` of the course.

    course: the course's folder. If it is left out, labkit searches beside the installed package (in a checkout of the
    repository, or in the learner's image), then in the folders around the notebook and the current folder. Raises
    `NotAvailable` if no folder has the solution.
    """
    for folder in [course] if course else _course_folders():
        for path in _files(folder / "solutions", exercise.lab):
            try:
                cells = _cells(path)
            except (InvalidRequest, OSError):
                continue  # a file that is not a solved notebook
            if numbers := defining_cells(cells, exercise.function):
                return Solution(next(cell.text for cell in cells if cell.number == numbers[-1]), path)
    place = f"{course.resolve()} has" if course else "This copy of the course has"
    raise NotAvailable(
        f"{place} no solution of exercise {exercise.number}; ask your instructor for the course's folder solutions/, and put "
        "it beside the folder of your notebooks"
    )


def _course_folders() -> Iterator[Path]:
    """The folders that could be the course's folder, each once."""
    notebook = os.environ.get("JPY_SESSION_NAME")
    own = [Path(notebook).parent, Path(notebook).parent.parent] if notebook else []
    yield from dict.fromkeys([Path(labkit.__file__).parents[1], *own, Path.cwd(), Path.cwd().parent])


def _files(folder: Path, lab: str) -> list[Path]:
    """The solved notebooks of a lab, then its sources. Reading a source needs the packages of the extra `lab`."""
    return [*sorted(folder.glob(f"{lab}_*.ipynb")), *sorted(folder.glob(f"{lab}_*.py"))]


def _cells(path: Path) -> list[FileCell]:
    if path.suffix == ".ipynb":
        return read_cells(path)
    from labkit.grading.lab_notebooks import solved_notebook

    cells = solved_notebook(path.read_text("utf-8")).cells
    return [FileCell(number, cell.cell_type == "code", cell.source) for number, cell in enumerate(cells, start=1)]
