"""Makes the notebook with only the core path from the notebook of a whole lab."""

from __future__ import annotations

import copy
from typing import Any

from labkit.exercises.core_path import CORE, core_only_words, core_words, size_of
from labkit.grading.core_marks import EXTRA, SKIP, exercise_of, kind_of
from labkit.grading.lab_notebooks import cells_digest


def core_notebook(notebook: Any) -> Any:
    """A copy of a lab's notebook (`student_notebook` or `solved_notebook`) with only the core path.

    The extras, and the notes that lead around them, are left out. The first cell says so, and gives the minutes, exercises and
    points of the core path. In the notebook's metadata, the stubs of extras are left out, the digest is new, and `labkit.track`
    is "core".
    """
    core = copy.deepcopy(notebook)
    left_out = {exercise.function for cell in core.cells if kind_of(cell) == EXTRA and (exercise := exercise_of(cell))}
    core.cells = [cell for cell in core.cells if kind_of(cell) not in (EXTRA, SKIP)]
    for cell in core.cells:
        about = cell.metadata.get("labkit", {})
        if "size" in about:
            words = size_of(about["lab"], CORE)
            cell.source = cell.source.replace(about["size"], words)
            cell.source = cell.source.replace(core_words(about["lab"]), core_only_words(about["lab"]))
            about["size"] = words
    about = core.metadata["labkit"]
    if "stubs" in about:
        about["stubs"] = {name: stub for name, stub in about["stubs"].items() if name not in left_out}
    core.metadata["labkit"] = about | {"cells_sha256": cells_digest(core), "track": CORE}
    return core
