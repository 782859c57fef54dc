"""Merges the reports of many machines: for each lab, how many machines can run it, which machines cannot, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.titles import LAB_TITLES
from labkit.session.labs import IN_PART, NO, YES
from labkit.session.report import SessionReport, read_report


@dataclass(frozen=True)
class Trouble:
    """A machine that cannot run the whole core path of a lab. `core` is "in part" or "no"; `why` is a phrase."""

    machine: str
    core: str
    why: str


@dataclass(frozen=True)
class RoomLab:
    """A lab, with counts of the machines in a room that can run it.

    `core`, `in_part` and `none` are the numbers of machines on which the lab's core path runs as a whole, in part, and not at
    all. `full` is the number of machines that run all exercises. `longest_setup` is the longest set-up time of any machine, in
    seconds.
    """

    lab: str
    title: str
    core: int
    in_part: int
    none: int
    full: int
    longest_setup: float
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True)
class Room:
    """All machines whose reports could be read, and a sentence for each file that could not be read."""

    machines: tuple[tuple[str, SessionReport], ...]
    labs: tuple[RoomLab, ...]
    refused: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that can be written as JSON."""
        return {
            "machines": [name for name, _ in self.machines],
            "labs": [asdict(lab) for lab in self.labs],
            "refused": list(self.refused),
        }


def room_of(paths: Sequence[Path]) -> Room:
    """Make the room of the machines whose reports are in these files.

    Each file counts as one machine. If several machines have the same name, the file name is added to each.
    """
    found: list[tuple[Path, SessionReport]] = []
    refused = []
    for path in paths:
        try:
            found.append((path, read_report(path)))
        except InvalidRequest as error:
            refused.append(str(error))
    count = Counter(report.machine for _, report in found)
    machines = tuple(
        (report.machine if count[report.machine] == 1 else f"{report.machine} ({path.name})", report) for path, report in found
    )
    return Room(machines, tuple(_lab(lab, machines) for lab in LAB_TITLES), tuple(refused))


def _lab(lab: str, machines: Sequence[tuple[str, SessionReport]]) -> RoomLab:
    rows = [(name, row) for name, report in machines for row in report.labs if row.lab == lab]
    count = Counter(row.core for _, row in rows)
    full = sum(row.full == YES for _, row in rows)
    longest = max((report.seconds(lab) for _, report in machines), default=0.0)
    troubles = tuple(Trouble(name, row.core, row.reason) for name, row in rows if row.core != YES)
    return RoomLab(lab, LAB_TITLES[lab], count[YES], count[IN_PART], count[NO], full, longest, troubles)
