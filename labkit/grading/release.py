"""Writes the notebooks of a course folder, and finds notebooks that differ from their sources or that a person has edited."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from labkit.errors import InvalidRequest, LabkitError
from labkit.grading.lab_notebooks import cells_digest, solved_notebook, student_notebook
from labkit.grading.notebook_kernel import run_cells
from labkit.home import fresh_home, write_atomically


@dataclass(frozen=True)
class Lab:
    """The three files of a lab: the source that an author edits, and the two notebooks that are made from it."""

    source: Path
    student: Path
    solved: Path

    @property
    def number(self) -> str:
        """The lab's number with two digits, such as "01"."""
        return self.source.name.split("_")[0]


def find_labs(root: Path) -> list[Lab]:
    """The labs of a course folder, one for each `solutions/NN_slug.py`. Raises `InvalidRequest` if there are none."""
    sources = sorted((root / "solutions").glob("[0-9][0-9]_*.py"))
    if not sources:
        raise InvalidRequest(f"{root} has no solutions/NN_slug.py; run this in the course's folder, or name that folder")
    return [Lab(s, root / "labs" / f"{s.stem}.ipynb", s.with_suffix(".ipynb")) for s in sources]


def choose_labs(root: Path, numbers: Sequence[str]) -> list[Lab]:
    """The labs of a course folder with these numbers ("01"); all labs if there are no numbers.

    Raises `InvalidRequest` for a number without a lab.
    """
    there = find_labs(root)
    known = [lab.number for lab in there]
    if unknown := [number for number in numbers if number not in known]:
        raise InvalidRequest(f"there is no lab {unknown[0]!r} in {root}; the labs there are {', '.join(known)}")
    return [lab for lab in there if not numbers or lab.number in numbers]


def stale(lab: Lab) -> list[Path]:
    """The notebooks of a lab whose cells differ from the cells that would be made from its source now.

    Outputs are not compared.
    """
    source = lab.source.read_text("utf-8")
    made = {lab.student: student_notebook(source), lab.solved: solved_notebook(source)}
    return [path for path, notebook in made.items() if _digests(path)[0] != cells_digest(notebook)]


def edited_by_a_person(path: Path) -> bool:
    """Whether the notebook exists and its cells differ from the cells that labkit wrote."""
    found, written = _digests(path)
    return path.exists() and (not found or found != written)


def _digests(path: Path) -> tuple[str, str]:
    """The digest of a notebook's cells, and the digest that labkit stored when it wrote the notebook.

    A missing digest is "".
    """
    try:
        notebook = json.loads(path.read_text("utf-8"))
        found = cells_digest(notebook)
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
    try:
        return found, str(notebook["metadata"]["labkit"]["cells_sha256"])
    except (KeyError, TypeError):
        return found, ""


def release(lab: Lab, *, force: bool = False) -> list[Path]:
    """Execute the solved notebook of a lab, write both notebooks, and return their paths.

    Raises `InvalidRequest` for a notebook that a person has changed, unless `force` is set. If the solved notebook does not
    run, raises `LabkitError` with a message that names the cell and its error, and writes nothing.
    """
    for path in (lab.student, lab.solved):
        if edited_by_a_person(path) and not force:
            raise InvalidRequest(f"{path} was edited after labkit wrote it; move it away, or overwrite it with --force")
    source = lab.source.read_text("utf-8")
    with fresh_home():
        solved = execute(solved_notebook(source), lab.solved.parent, lab.source.name)
    for path, notebook in ((lab.student, student_notebook(source)), (lab.solved, solved)):
        write_atomically(path, nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
    return [lab.student, lab.solved]


CELL_SECONDS = 1200
"""How many seconds a cell of a solved lab may run. On a busy machine, cells have taken more than 300 seconds."""


def execute(notebook: Any, folder: Path, name: str, timeout: int = CELL_SECONDS) -> Any:
    """Run every cell in `folder`, each for at most `timeout` seconds, and return the notebook with its outputs.

    Raises `LabkitError` with a message that names the cell that failed.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    try:
        run_cells(notebook, folder, timeout=timeout, kernel_name="python3", coalesce_streams=True)
    except (CellExecutionError, CellTimeoutError, DeadKernelError, RuntimeError) as error:  # RuntimeError: no kernel
        raise LabkitError(f"{name} does not run: {str(error).strip()[-1500:]}") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    remove_widgets(notebook)
    return notebook


WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def remove_widgets(notebook: Any) -> None:
    """Remove the widgets from the outputs. Their kernel has ended, so JupyterLab would show errors in their place.

    HTML that is stored beside a widget stays. An output with only a widget and a line of text, such as a progress bar, is
    removed.
    """
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("data", {}).pop(WIDGET_VIEW, None) and set(output.data) == {"text/plain"}:
                output.data.clear()
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data", True)]
