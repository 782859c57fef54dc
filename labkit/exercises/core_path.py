"""The core path of a lab: the exercises for a session of at most one hour, and the minutes that they and their sections take.

`Exercise.core` says whether an exercise is on the core path. All other exercises are extras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.errors import InvalidRequest
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import of_lab
from labkit.plurals import counted

CORE, FULL = "core", "full"
TRACKS = (CORE, FULL)
"""A track says which exercises of a lab are done and counted: only the exercises on the core path, or all exercises."""

MOST_CORE_MINUTES = 60
"""The largest number of minutes that the core path of a lab may take."""


@dataclass(frozen=True)
class Minutes:
    """The minutes that a part of a lab takes on the core path, and in the whole lab."""

    core: int
    full: int

    def on(self, track: str) -> int:
        """The minutes that the part takes on a track."""
        return self.core if track == CORE else self.full


SECTION_MINUTES = {
    "00": Minutes(core=18, full=20),
    "01": Minutes(core=21, full=41),
    "02": Minutes(core=15, full=30),
    "03": Minutes(core=15, full=35),
    "04": Minutes(core=20, full=45),
    "05": Minutes(core=15, full=31),
    "06": Minutes(core=16, full=22),
    "07": Minutes(core=20, full=22),
    "08": Minutes(core=16, full=30),
}
"""For each lab: the minutes for reading and for its measured sections, without the minutes of the exercises."""


def need_track(track: str) -> None:
    """Raise `InvalidRequest` unless there is such a track."""
    if track not in TRACKS:
        raise InvalidRequest(f"there is no track {track!r}; the tracks are {' and '.join(TRACKS)}")


def on_track(lab: str, track: str) -> tuple[Exercise, ...]:
    """The exercises of a lab ("01") on a track, in their order. Raises `InvalidRequest` for an unknown lab or track."""
    need_track(track)
    return tuple(exercise for exercise in of_lab(lab) if exercise.core or track == FULL)


def minutes_of(lab: str, track: str) -> int:
    """The minutes that a lab's exercises and sections take on a track."""
    return sum(exercise.minutes for exercise in on_track(lab, track)) + SECTION_MINUTES[lab].on(track)


def points_of(lab: str, track: str) -> int:
    """The points of all exercises of a lab on a track."""
    return sum(exercise.points for exercise in on_track(lab, track))


def numbers_of(exercises: Sequence[Exercise]) -> str:
    """The numbers of exercises in one lab, in order, as a phrase: "2.1", "2.1 and 2.5", or "2.1 to 2.3"."""
    *first, last = [exercise.number for exercise in exercises]
    places = [int(exercise.number.split(".")[1]) for exercise in exercises]
    if len(first) > 1 and places == list(range(places[0], places[-1] + 1)):
        return f"{first[0]} to {last}"
    return f"{', '.join(first)} and {last}" if first else last


def size_of(lab: str, track: str) -> str:
    """The size of a lab as a phrase: "About 60 minutes · 6 exercises, 65 points"."""
    count = counted(len(on_track(lab, track)), "exercise")
    return f"About {minutes_of(lab, track)} minutes · {count}, {points_of(lab, track)} points"


def core_words(lab: str) -> str:
    """The sentences at the head of a lab that introduce its core path."""
    core = on_track(lab, CORE)
    return (
        f"**Core path:** about {minutes_of(lab, CORE)} minutes, exercises {numbers_of(core)} ({points_of(lab, CORE)} points). "
        "It needs none of the extras. Where you can skip extras, a line says where to continue."
    )


def core_only_words(lab: str) -> str:
    """The sentences that replace `core_words` in a notebook that has only the core path."""
    extras = [exercise for exercise in of_lab(lab) if not exercise.core]
    size = f"{counted(len(extras), 'exercise')}, {sum(exercise.points for exercise in extras)} points"
    return (
        f"**This notebook contains only the core path.** The extras of the whole lab are left out ({size}), and with them "
        "part of what is listed above. The panel still lists the extras."
    )


@dataclass(frozen=True)
class Points:
    """The points earned and the points available, for all exercises and for the core path alone."""

    reached: float
    out_of: float
    core_reached: float
    core_out_of: float

    @property
    def words(self) -> str:
        """The points of all exercises together: "10 of 65 points"."""
        return f"{self.reached:g} of {self.out_of:g} points"

    @property
    def core_words(self) -> str:
        """The points on the core path: "core path: 10 of 55 points"."""
        return f"core path: {self.core_reached:g} of {self.core_out_of:g} points"

    def to_dict(self) -> dict[str, float]:
        """Return the points as plain values, for JSON."""
        return {
            "points": self.reached,
            "out_of": self.out_of,
            "core_points": self.core_reached,
            "core_out_of": self.core_out_of,
        }


def points(reached: Sequence[tuple[Exercise, float, float]]) -> Points:
    """Add up the points of several exercises. Each row has the exercise, the points reached, and the points possible."""
    core = [row for row in reached if row[0].core]
    sums = [(sum(own for _, own, _ in rows), sum(most for _, _, most in rows)) for rows in (reached, core)]
    return Points(*sums[0], *sums[1])
