"""A submission: the code of a notebook, and the statements that each of its functions needs.

This module only reads text and runs nothing. The statements run only in the worker's process (`labkit.grading.worker`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from labkit.grading.dependencies import Needs
from labkit.grading.notebook_file import FileCell, read_cells
from labkit.grading.python_cells import PythonCell, python_cells
from labkit.grading.statements import Statement, statements_of


@dataclass(frozen=True)
class Piece:
    """The needed statements of a cell: the number of the cell, its Python source, and the positions (from 0) of the needed
    top-level statements.
    """

    cell: int
    source: str
    statements: list[int]


@dataclass(frozen=True)
class Submission:
    """The cells of a notebook.

    If the notebook is on disk, `folder` is its folder, which may contain its own modules and files.
    """

    cells: Sequence[FileCell]
    folder: Path | None = None

    @cached_property
    def notes(self) -> list[str]:
        """A message for each code cell that is left out."""
        return [cell.problem for cell in self._python if cell.problem]

    @cached_property
    def names(self) -> set[str]:
        """All names that any statement binds."""
        return {name for one in self._statements for name in one.binds}

    @cached_property
    def functions(self) -> set[str]:
        """The names that the notebook binds with `def` (at any depth) or to a `lambda`."""
        return {name for one in self._statements for name in one.defines}

    @cached_property
    def asked(self) -> set[str]:
        """The names that a cell defines with `def` or passes to `check`. Cells that are not code count too."""
        return {name for cell in self.cells for name in re.findall(r"\b(?:def\s+|check\()(\w+)", cell.text)}

    @cached_property
    def binds_anything(self) -> bool:
        """Whether the code may bind names that its text does not show, with `exec`, `globals()`, `%run` or `from x import
        *`.
        """
        return any(one.changes.anything for one in self._statements)

    def needed_for(self, name: str) -> list[Piece]:
        """The statements that must run to define the function with this name, in the notebook's order."""
        places: dict[int, list[int]] = {}
        for one in self._needs.needed_for(name):
            places.setdefault(one.cell, []).append(one.index)
        return [Piece(cell.number, cell.source, places[cell.number]) for cell in self._python if cell.number in places]

    def why_missing(self, name: str) -> str:
        """A message about why the notebook has no function with this name. It is a guess from the text of the notebook."""
        definition = re.compile(rf"^\s*(?:async\s+)?def\s+{re.escape(name)}\s*\(", re.MULTILINE)
        found = [cell for cell in self.cells if definition.search(cell.text)]
        if not found:
            return f"The notebook defines no function {name}."
        last = found[-1]
        if not last.is_code:
            return f"Cell {last.number} contains {name}, but it is not a code cell: change the type of the cell to code."
        problem = next((cell.problem for cell in self._python if cell.number == last.number), "")
        return problem or f"Cell {last.number} contains {name}, but not at the top level of the notebook; define it there."

    @cached_property
    def _python(self) -> list[PythonCell]:
        return python_cells(list(self.cells))

    @cached_property
    def _statements(self) -> list[Statement]:
        return statements_of(self._python)

    @cached_property
    def _needs(self) -> Needs:
        return Needs(self._statements)


def read_submission(path: Path) -> Submission:
    """The submission in a notebook file. Raises `InvalidRequest` as `read_cells` does."""
    return Submission(read_cells(path), path.resolve().parent)


def submission_of(*sources: str) -> Submission:
    """A submission that has one code cell for each of these texts."""
    return Submission([FileCell(number, True, source) for number, source in enumerate(sources, start=1)])
