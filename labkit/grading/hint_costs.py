"""Reads the costs of hints from the course's rules, which are the table `[hints]` in the instructor's file `course.toml`."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.home import home_path
from labkit.plurals import counted

COURSE_FILE = "course.toml"
MOST_COST = 100
"""The largest accepted cost of one hint, in points."""
HintCosts = tuple[int, int, int]
"""The points that the first, the second and the third hint of an exercise cost."""
FREE: HintCosts = (0, 0, 0)


def hint_costs() -> HintCosts:
    """The costs of hints in this copy of the course. If there is no file `course.toml` with a table `[hints]`, hints are free.

    The file is searched beside the notebook, in the current folder and in labkit's home, in this order; the first file found
    counts. Raises `InvalidRequest` if the file cannot be read, is not TOML, or has wrong costs.
    """
    notebook = os.environ.get("JPY_SESSION_NAME")
    folders = [*([Path(notebook).parent] if notebook else []), Path.cwd(), home_path()]
    path = next((folder / COURSE_FILE for folder in folders if (folder / COURSE_FILE).is_file()), None)
    if path is None:
        return FREE
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"the rules of the course in {path} cannot be read: {error}") from None
    return costs_in(found.get("hints", {}), path)


def costs_in(table: Any, path: Path) -> HintCosts:
    """Read the costs from the value of `hints` in the TOML file `path`.

    If the value is wrong, raises `InvalidRequest` with a message that names `path`.
    """
    costs = table.get("cost", list(FREE)) if isinstance(table, dict) and table.keys() <= {"cost"} else None
    if not isinstance(costs, list) or len(costs) != len(FREE) or not all(map(_is_cost, costs)):
        raise InvalidRequest(
            f"hints in {path} is {table!r:.100}; give a table [hints] with cost = [0, 1, 2]: the points that the first, the "
            f"second and the third hint cost, each from 0 to {MOST_COST}"
        )
    first, second, third = costs
    return first, second, third


def _is_cost(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_COST


def in_words(costs: HintCosts) -> str:
    """The costs in words: "Hints cost no points.", or a sentence with the cost of each hint."""
    if not any(costs):
        return "Hints cost no points."
    first, second, third = costs
    return (
        f"Before a pass, the first hint of an exercise costs {counted(first, 'point')}, the second {second}, and the third "
        f"{third}. No exercise gets fewer than 0 points."
    )
