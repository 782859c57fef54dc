"""Resets one exercise to its stub. The learner's old text is kept in labkit's home, in a file that is never overwritten."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find
from labkit.grading.check import exercise_of, in_notebook
from labkit.grading.notebook_file import FileCell, cells_of, json_of
from labkit.grading.progress import Progress
from labkit.grading.stub_text import defining_cells, with_stub
from labkit.grading.stubs import stub_of
from labkit.grading.this_notebook import this_notebook
from labkit.home import home, make_new, write_atomically


def reset(function: Callable[..., Any] | str, notebook: str | Path | None = None) -> None:
    """Show the stub of an exercise in a new cell below this one, and print it. No cell of the notebook is changed.

    The old text in the notebook's file is copied to labkit's home. Points are kept. notebook: the path of the file; without it,
    the path that Jupyter passed to the kernel. Raises `InvalidRequest` if there is no such exercise, if the file is not known
    or is not a notebook, or if the notebook does not contain the stub.
    """
    exercise = find(function) if isinstance(function, str) else exercise_of(function, sys._getframe(1).f_globals)
    if not Progress.is_kept:
        return
    path = this_notebook(notebook, f'reset("{exercise.function}", "00_class_environment.ipynb")')
    content = json_of(path)
    cells, stub = cells_of(content, path), _stub(content, path, exercise)
    numbers = defining_cells(cells, exercise.function)
    words = [f"The stub of {exercise.function}. JupyterLab also puts it into a new cell below this one:", "", stub, ""]
    if numbers:
        kept = _keep(path, exercise, [cell for cell in cells if cell.number in numbers])
        words.append(f"Your old text, as it was last saved in the notebook, is also in {kept}.")
    words += [
        "No cell was changed, and your points are kept.",
        "The definition that you run last counts: delete your old cell.",
    ]
    print("\n".join(words))
    if in_notebook():
        sys.modules["IPython"].get_ipython().set_next_input(stub)


@dataclass(frozen=True)
class Reset:
    """The changes in a notebook's file: the numbers of the changed cells, and the file with their old text (None if no cell
    was changed).
    """

    cells: list[int]
    kept: Path | None


def reset_in_file(path: Path, exercise: Exercise) -> Reset:
    """Replace the learner's function in the notebook's file with the stub of the exercise.

    The old text is kept first; then the file is replaced atomically. Raises `InvalidRequest` if the file is not a notebook of
    nbformat 4, if it does not contain the stub, or if the function cannot be found in it.
    """
    path = path.resolve()
    content = json_of(path)
    cells = cells_of(content, path)
    if "worksheets" in content:
        raise InvalidRequest(f"{path} has an old format; open it in JupyterLab and save it, then try again")
    changed = with_stub(cells, _stub(content, path, exercise), exercise.function)
    if not changed:
        return Reset([], None)
    kept = _keep(path, exercise, [cell for cell in cells if cell.number in changed])
    for number, text in changed.items():
        content["cells"][number - 1]["source"] = text.splitlines(keepends=True)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return Reset(sorted(changed), kept)


def _stub(content: Any, path: Path, exercise: Exercise) -> str:
    stub = stub_of(content, exercise.function)
    if stub is None:
        raise InvalidRequest(
            f"{path} does not contain the stub of {exercise.function}; give a newer copy of the notebook of lab {exercise.lab}"
        )
    return stub


def _keep(path: Path, exercise: Exercise, cells: Iterable[FileCell]) -> Path:
    """Write the text of these cells into a new file in labkit's home, and return its path."""
    name = f"{path.stem}-{exercise.function}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.py"
    folder = home() / "old_answers"
    folder.mkdir(exist_ok=True)
    kept = make_new(folder / name, lambda free: free.touch(exist_ok=False))
    write_atomically(kept, "\n\n".join(f"# cell {cell.number} of {path.name}\n{cell.text}" for cell in cells) + "\n")
    return kept
