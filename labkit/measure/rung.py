"""Defines a rung of a speed ladder, and compares rungs. Only rungs with the same task are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.errors import InvalidRequest
from labkit.measure.disturbed import CELL_AGAIN, disturbed_note
from labkit.measure.task import Task


@dataclass(frozen=True)
class Rung:
    """One measured run: its task, name, median tokens per second, quartiles `low` and `high`, and details of the measurement.

    The tokens are the new tokens of all sequences together. `disturbed` says why the measurement cannot be trusted; it is empty
    for a measurement that can be trusted. `device` describes the machine in words; it is empty if the machine was not recorded.
    Raises `InvalidRequest` unless the speeds are finite, positive and in order.
    """

    task: Task
    name: str
    tokens_per_second: float
    low: float
    high: float
    disturbed: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    device: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        middle = self.tokens_per_second
        slack = 1e-9 * middle  # quartiles are interpolated, and rounding can make equal numbers slightly different
        if not (math.isfinite(self.high) and 0 < self.low <= middle + slack and middle <= self.high + slack):
            raise InvalidRequest(
                f"rung {self.name!r}: {middle} tokens per second, quartiles {self.low} and {self.high}; the numbers must be "
                "finite and positive, with the speed between its quartiles"
            )


def by_task(rungs: Iterable[Rung]) -> list[list[Rung]]:
    """Return one list of rungs for each task. Tasks and rungs keep their order."""
    found: dict[Task, list[Rung]] = {}
    for rung in rungs:
        found.setdefault(rung.task, []).append(rung)
    return list(found.values())


def times_faster(rungs: Sequence[Rung]) -> list[float]:
    """Return the speed of each rung of one ladder, divided by the speed of the first rung.

    The ratio is NaN if one of the two measurements was disturbed. Raises `InvalidRequest` if the rungs have different tasks.
    """
    if len(tasks := {rung.task for rung in rungs}) > 1:
        raise InvalidRequest(f"speeds of different tasks cannot be compared: {'; '.join(sorted(map(str, tasks)))}")
    return [
        math.nan if rung.disturbed or rungs[0].disturbed else rung.tokens_per_second / rungs[0].tokens_per_second
        for rung in rungs
    ]


def ladder_note(rungs: Sequence[Rung], again: str = CELL_AGAIN) -> str:
    """Return sentences about the disturbed rungs of one ladder, or "" if there are none.

    again: an instruction that says how to measure again.
    """
    note = disturbed_note((rung.disturbed for rung in rungs), again)
    return note + " The first rung was disturbed, so this ladder has no ratios." * bool(rungs[0].disturbed and len(rungs) > 1)
