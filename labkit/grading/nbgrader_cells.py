"""Marks the cells of a lab for nbgrader, with nbgrader's metadata in schema version 3.

nbgrader knows two cells of an exercise: the answer, which the learner changes, and the check, which gives the points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find

SCHEMA_VERSION = 3


def check_id(exercise: Exercise) -> str:
    """The `grade_id` of an exercise's check cell: its name with a hyphen, "lab00-weight_gib", because nbgrader's editor accepts
    no dots.
    """
    return exercise.name.replace(".", "-")


def answer_id(exercise: Exercise) -> str:
    """The `grade_id` of an exercise's answer cell: "lab00-weight_gib-answer"."""
    return f"{check_id(exercise)}-answer"


def mark_cells(cells: Sequence[Any]) -> None:
    """Add nbgrader's metadata to the answer cell and the check cell of each exercise that has a heading among these cells."""
    for heading in cells:
        name = heading.metadata.get("labkit", {}).get("exercise")
        if name is None:
            continue
        exercise = find(name)
        definition = re.compile(rf"^def {exercise.function}\(", re.MULTILINE)
        for cell in cells:
            if cell.cell_type == "code" and definition.search(cell.source):
                cell.metadata["nbgrader"] = _metadata(answer_id(exercise), solution=True)
            elif cell.cell_type == "code" and cell.source == f"check({exercise.function})":
                cell.metadata["nbgrader"] = _metadata(check_id(exercise), grade=True, locked=True, points=exercise.points)


def _metadata(
    grade_id: str, *, solution: bool = False, grade: bool = False, locked: bool = False, points: int | None = None
) -> dict[str, Any]:
    row = {"grade": grade, "grade_id": grade_id, "locked": locked, "schema_version": SCHEMA_VERSION, "solution": solution}
    return row | {"task": False} | ({} if points is None else {"points": points})
