"""The rules for late and repeated work and for extras, from one small TOML file. See docs/gradebook.md for an example."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.core_path import FULL, TRACKS
from labkit.exercises.titles import LAB_TITLES
from labkit.grading.hint_costs import FREE, HintCosts, costs_in

_DAY = 24 * 60 * 60


@dataclass(frozen=True)
class Policy:
    """The rules of a class.

    - `deadlines` has a time with a UTC offset for each lab that has a deadline.
    - `percent_per_day_late` is subtracted from the points of an attempt for each day, or part of a day, after the deadline.
    - `most_attempts`: attempts at a lab beyond this number are graded, but do not count; 0 means no limit.
    - `text` is the text of the policy file.
    - `hint_costs` are for the learners' own panels, which read a copy of this file, `course.toml`. The scores do not use them.
    - `track` says which exercises count: only the exercises on the core path ("core"), or all exercises ("full").
    """

    deadlines: Mapping[str, datetime] = field(default_factory=dict)
    percent_per_day_late: float = 0.0
    most_attempts: int = 0
    text: str = ""
    hint_costs: HintCosts = FREE
    track: str = FULL

    def days_late(self, lab: str, submitted: datetime) -> int:
        """The number of days after the deadline; a part of a day counts as a whole day. It is 0 if the lab has no deadline."""
        if lab not in self.deadlines:
            return 0
        return max(math.ceil((submitted - self.deadlines[lab]).total_seconds() / _DAY), 0)

    def percent(self, lab: str, submitted: datetime) -> float:
        """The percentage of the points that remain: 100 for a submission on time, never less than 0."""
        return max(100.0 - self.percent_per_day_late * self.days_late(lab, submitted), 0.0)

    def counts(self, number: int) -> bool:
        """Whether the attempt with this number (from 1) is allowed to count."""
        return self.most_attempts == 0 or number <= self.most_attempts


def read_policy(path: Path) -> Policy:
    """The policy in a TOML file.

    Raises `InvalidRequest` if the file cannot be read, is not TOML, or has an unknown name or a wrong value.
    """
    try:
        text = path.read_text("utf-8")
        found = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"the policy {path} cannot be read: {error}") from None
    known = {"deadline", "hints", "percent_per_day_late", "most_attempts", "track"}
    if unknown := sorted(found.keys() - known):
        raise InvalidRequest(f"the policy {path} has the name {unknown[0]!r}; the names are {', '.join(sorted(known))}")
    return Policy(
        _deadlines(path, found.get("deadline", {})),
        _number(path, found, "percent_per_day_late", most=100),
        _whole_number(path, found, "most_attempts"),
        text,
        costs_in(found.get("hints", {}), path),
        _track(path, found.get("track", FULL)),
    )


def _number(path: Path, found: dict[str, Any], name: str, most: float) -> float:
    value = found.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise InvalidRequest(f"{name} in the policy {path} is {value!r}; give a number from 0 to {most:g}")
    return float(value)


def _whole_number(path: Path, found: dict[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"{name} in the policy {path} is {value!r}; give a whole number from 0 (0 means no limit)")
    return value


def _track(path: Path, track: Any) -> str:
    if track not in TRACKS:
        words = " or ".join(f'"{each}"' for each in TRACKS)
        raise InvalidRequest(f"track in the policy {path} is {track!r}; give {words}")
    return str(track)


def _deadlines(path: Path, found: Any) -> dict[str, datetime]:
    if not isinstance(found, dict):
        raise InvalidRequest(f"deadline in the policy {path} is {found!r}; give a table [deadline] with a time for each lab")
    for lab, time in found.items():
        if lab not in LAB_TITLES:
            raise InvalidRequest(f"the policy {path} has a deadline for lab {lab!r}; the labs are {', '.join(LAB_TITLES)}")
        if not isinstance(time, datetime) or time.tzinfo is None:
            raise InvalidRequest(
                f"the deadline of lab {lab} in the policy {path} is {time!s}; give a date and time with an offset, "
                "such as 2026-10-05T23:59:00+02:00"
            )
    return {lab: time.astimezone(UTC) for lab, time in found.items()}
