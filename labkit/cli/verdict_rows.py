"""Sums up several verdicts for `labkit check` and `labkit watch`: the points, and the JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.exercises.core_path import Points
    from labkit.grading.verdict import Verdict


def points_of(verdicts: Iterable[Verdict]) -> Points:
    """The points of these verdicts, in total and on the core path."""
    from labkit.exercises.core_path import points
    from labkit.exercises.registry import exercise as find

    return points([(find(verdict.exercise), verdict.points, verdict.out_of) for verdict in verdicts])


def json_of(found: Sequence[tuple[Path, Verdict]]) -> dict[str, Any]:
    """The JSON object for verdicts: a row for each verdict, with the path of its notebook, and the points."""
    from labkit.exercises.registry import exercise as find

    rows = [{"notebook": str(path), "track": find(one.exercise).track} | asdict(one) for path, one in found]
    return {"exercises": rows, **points_of(one for _, one in found).to_dict()}
