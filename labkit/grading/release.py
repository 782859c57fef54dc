"""From one source a lab to its notebooks: the learner's (stubs) and the solved one (executed).

The source is a percent script under `solutions/`. What is cut out of it:

    # {{exercise lab01.kv_bytes}}      a Markdown cell of this one line becomes the exercise's heading
    # BEGIN SOLUTION                   in a function's body, up to END SOLUTION: the learner gets
    # END SOLUTION                     `raise NotImplementedError("name")` instead
    # BEGIN SOLUTION guess = None      elsewhere: the learner gets `guess = None` instead
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from labkit.errors import InvalidRequest, LabkitError
from labkit.exercises.registry import exercise as find
from labkit.home import fresh_home, write_atomically

KERNEL = {
    "kernelspec": {"display_name": "labkit", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_EXERCISE = re.compile(r"^\{\{exercise ([\w.]+)\}\}$")
_BEGIN = re.compile(r"^(\s*)# BEGIN SOLUTION ?(.*)$")
_FUNCTION = re.compile(r"^\s*(?:async )?def (\w+)\(")
_END = re.compile(r"^\s*# END SOLUTION$")


@dataclass(frozen=True)
class Lab:
    """A lab's three files: the source an author edits, and the two notebooks made from it."""

    source: Path
    student: Path
    solved: Path


def find_labs(root: Path) -> list[Lab]:
    """The labs of a course folder, which has `solutions/NN_slug.py`; raises `InvalidRequest` when there are none."""
    sources = sorted((root / "solutions").glob("[0-9][0-9]_*.py"))
    if not sources:
        raise InvalidRequest(f"{root} has no solutions/NN_slug.py; run this in the course's folder, or name it")
    return [Lab(s, root / "labs" / f"{s.stem}.ipynb", s.with_suffix(".ipynb")) for s in sources]


def student_notebook(source: str) -> Any:
    """The learner's notebook: headings filled in, solutions cut out, nothing executed."""
    return _notebook(source, solved=False)


def solved_notebook(source: str) -> Any:
    """The solved notebook, not executed yet."""
    return _notebook(source, solved=True)


def _notebook(source: str, *, solved: bool) -> Any:
    notebook = jupytext.reads(source, fmt="py:percent")
    counts: dict[str, int] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := _EXERCISE.match(cell.source.strip())):
            exercise = find(match[1])
            cell.source = exercise.heading()
            cell.metadata = {"labkit": {"exercise": exercise.name}}
        else:
            cell.metadata = {}
            if cell.cell_type == "code":
                cell.source = cut_solutions(cell.source, keep=solved)
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        counts[digest] = counts.get(digest, 0) + 1
        cell.id = f"{digest}-{counts[digest]}"
    notebook.metadata = {**KERNEL, "labkit": {"cells_sha256": cells_digest(notebook)}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return notebook


def cut_solutions(source: str, *, keep: bool) -> str:
    """A code cell without its solution marks: with the solution (`keep`) or with what the learner gets instead.

    Raises `InvalidRequest` for marks that do not pair up, or a solution outside a function without a replacement.
    """
    lines: list[str] = []
    inside = False
    around: list[tuple[int, str]] = []  # indentation and name of the functions around this line, outermost first
    for line in source.splitlines():
        indentation = len(line) - len(line.lstrip())
        if line.strip() and not inside:
            around = [(depth, name) for depth, name in around if depth < indentation]
        if (match := _FUNCTION.match(line)) and not inside:
            around.append((indentation, match[1]))
        if begin := _BEGIN.match(line):
            if inside or not (begin[2] or around):
                raise InvalidRequest(f"solution marks do not pair up, or lack what the learner gets: {line!r} in\n{source}")
            inside = True
            if not keep:
                lines.append(begin[1] + (begin[2] or f'raise NotImplementedError("{around[-1][1]}")'))
        elif _END.match(line):
            if not inside:
                raise InvalidRequest(f"END SOLUTION without BEGIN SOLUTION in\n{source}")
            inside = False
        elif keep or not inside:
            lines.append(line)
    if inside:
        raise InvalidRequest(f"BEGIN SOLUTION without END SOLUTION in\n{source}")
    return "\n".join(lines)


def cells_digest(notebook: Any) -> str:
    """SHA-256 over the kinds and sources of all cells: what a person can edit."""
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def stale(lab: Lab) -> list[Path]:
    """The notebooks of a lab that are not what its source makes (outputs aside)."""
    source = lab.source.read_text("utf-8")
    made = {lab.student: student_notebook(source), lab.solved: solved_notebook(source)}
    return [path for path, notebook in made.items() if _digest_of(path) != cells_digest(notebook)]


def _digest_of(path: Path) -> str:
    try:
        return cells_digest(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def edited_by_a_person(path: Path) -> bool:
    """Whether a notebook's cells are no longer those that were generated into it."""
    if not path.exists():
        return False
    try:
        notebook = json.loads(path.read_text("utf-8"))
        return bool(notebook["metadata"]["labkit"]["cells_sha256"] != cells_digest(notebook))
    except (ValueError, KeyError, TypeError):
        return True


def release(lab: Lab, *, force: bool = False) -> list[Path]:
    """Write both notebooks of a lab, executing the solved one; gives the paths written.

    A learner's notebook that a person has changed is refused by name unless `force`. Raises `LabkitError` with the
    cell and its error when the solved notebook does not run; nothing is written then.
    """
    for path in (lab.student, lab.solved):
        if edited_by_a_person(path) and not force:
            raise InvalidRequest(
                f"{path} was changed by hand since it was generated; move it away, or overwrite it with --force"
            )
    source = lab.source.read_text("utf-8")
    with fresh_home():
        solved = execute(solved_notebook(source), lab.solved.parent, lab.source.name)
    for path, notebook in ((lab.student, student_notebook(source)), (lab.solved, solved)):
        write_atomically(path, nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]
    return [lab.student, lab.solved]


def execute(notebook: Any, folder: Path, name: str, timeout: int = 300) -> Any:
    """Run every cell in `folder` and give the notebook with its outputs; raises `LabkitError` naming the failing cell."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=where, coalesce_streams=True)
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise LabkitError(f"{name} does not run: {str(error).strip()[-1500:]}") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    return notebook
