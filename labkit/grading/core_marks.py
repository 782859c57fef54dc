"""Marks of the core path in the source of a lab, which become text and metadata of the notebook's cells.

    {{lab 02: size; more}}       in a Markdown cell: the minutes, exercises and points of the whole lab replace it; `more` stays
    {{lab 02: core path}}        in the same cell: the sentences that introduce the core path replace it
    {{core path: go on at X}}    if a Markdown cell has only this line: a note with a link to the section X replaces it

The cells from such a note to the section X are extras. `labkit.core` in the metadata of a cell is "skip" for a note, and
"extra" for an extra. The metadata of the cell with `{{lab 02: size; more}}` holds the number of the lab and the text of its
size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.core_path import FULL, core_words, numbers_of, size_of
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find

SKIP, EXTRA = "skip", "extra"
"""The values of `labkit.core` in the metadata of a cell."""

_SIZE = re.compile(r"\{\{lab (\d\d): size(; [^}]*)?\}\}")
_CORE_PATH = "{{{{lab {}: core path}}}}"
_GO_ON = re.compile(r"^\{\{core path: go on at (.+)\}\}$")


def kind_of(cell: Any) -> str:
    """The value of `labkit.core` in a cell's metadata; "" if there is none."""
    return str(cell.metadata.get("labkit", {}).get("core", ""))


def fill_core_marks(cells: Sequence[Any]) -> None:
    """Replace the marks in these cells and mark the extras. The exercises in the cells must have their headings already.

    Raises `InvalidRequest` if a note names a section that does not come after it.
    """
    for place, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        if match := _SIZE.search(cell.source):
            lab, size = match[1], size_of(match[1], FULL) + (match[2] or "")
            cell.metadata["labkit"] = {"lab": lab, "size": size}
            cell.source = cell.source.replace(match[0], size).replace(_CORE_PATH.format(lab), core_words(lab))
        elif match := _GO_ON.match(cell.source.strip()):
            end = _place_of(match[1], cells, place)
            cell.source = _note(match[1], cells[place + 1 : end], cells[end:])
            _mark(cell, SKIP)
            for extra in cells[place + 1 : end]:
                _mark(extra, EXTRA)


def exercise_of(cell: Any) -> Exercise | None:
    """The exercise that a cell introduces, or None."""
    name = cell.metadata.get("labkit", {}).get("exercise")
    return None if name is None else find(name)


def _mark(cell: Any, kind: str) -> None:
    cell.metadata.setdefault("labkit", {})["core"] = kind


def _place_of(title: str, cells: Sequence[Any], after: int) -> int:
    """The place of the cell that begins with the heading `title`."""
    for place in range(after + 1, len(cells)):
        if re.match(rf"#+ {re.escape(title)}\n", cells[place].source + "\n"):
            return place
    raise InvalidRequest(f"the core path continues with {title!r}, but no cell after this note begins with this heading")


def _note(title: str, skipped: Sequence[Any], rest: Sequence[Any]) -> str:
    """The text of a note. It names the next exercise on the core path, if there is one, and the exercises that are left out."""
    extras = [exercise for cell in skipped if (exercise := exercise_of(cell))]
    if not extras or any(exercise.core for exercise in extras):
        raise InvalidRequest(
            f"a note leads to {title!r} and skips {len(extras)} exercises; it must skip extras only, and at least one"
        )
    following = [exercise for cell in rest if (exercise := exercise_of(cell)) and exercise.core]
    number = f"exercise {following[0].number}: " if following else ""
    link = f"[{title}](#{title.replace(' ', '-')})"  # the form of JupyterLab's anchors
    words = f"Exercises {numbers_of(extras)} are extras" if len(extras) > 1 else f"Exercise {extras[0].number} is an extra"
    return f"**On the core path, continue with {number}{link}.** {words}."
