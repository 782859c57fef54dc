"""The speed ladders of a class, merged from the learners' files: one table for each device and task.

The content of a file is not trusted. A file that cannot be used is left out, and one sentence gives the reason.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.errors import InvalidRequest
from labkit.gradebook.names import look_alikes, spelled
from labkit.measure.ladder_file import SharedLadder, read_ladder_file
from labkit.measure.rung import Rung, times_faster
from labkit.measure.task import Task

MOST_FILES = 2000
"""At most this many files are read."""


@dataclass(frozen=True)
class Cell:
    """A speed in tokens per second with its quartiles, and `times`: the speed divided by the speed of the baseline.

    `times` is NaN if the rung or the baseline was disturbed or is missing. `disturbed` describes the disturbance of the rung
    ("" if there was none). `count` is the number of learners in the cell.
    """

    speed: float
    low: float
    high: float
    times: float
    disturbed: str = ""
    count: int = 1


@dataclass(frozen=True)
class Row:
    """A learner's cells, by the name of the rung, and the versions of the learner's packages."""

    name: str
    versions: Mapping[str, str]
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """The ladders of one task on one device.

    The first of `rungs` is the baseline. `whole` has the medians of the class, if there are several learners.
    """

    device: str
    task: Task
    rungs: tuple[str, ...]
    rows: tuple[Row, ...]
    whole: Mapping[str, Cell]


@dataclass(frozen=True)
class Board:
    """All tables of a class, by device and task, and the number of learners.

    `remarks` has a sentence for each file that was left out or has a problem.
    """

    tables: tuple[Table, ...]
    learners: int
    remarks: tuple[str, ...] = ()


NO_BOARD = Board((), 0)
"""The board of a class that handed in no ladder."""


def read_board(paths: Sequence[Path]) -> Board:
    """Read the board from files. A file that is not a ladder, or is a copy of another file, is left out; a remark says why."""
    found: list[SharedLadder] = []
    remarks = [f"Only the first {MOST_FILES} files are read."] if len(paths) > MOST_FILES else []
    for path in paths[:MOST_FILES]:
        try:
            ladder = read_ladder_file(path)
        except InvalidRequest as error:
            remarks.append(f"{error}.")
            continue
        if ladder in found:
            remarks.append(f"{path} has the same content as another file, so it counts once.")
        else:
            found.append(ladder)
    return board_of([(ladder.name, ladder) for ladder in found], remarks)


def board_of(ladders: Iterable[tuple[str, SharedLadder]], remarks: Iterable[str] = ()) -> Board:
    """Make the board from pairs of a row's name and its ladder.

    If several ladders have the same name, a number is added to the name, so that no ladder replaces another one.
    """
    names: dict[str, int] = defaultdict(int)
    remarks = list(remarks)
    entries: dict[tuple[str, Task], list[tuple[str, SharedLadder, list[Rung]]]] = defaultdict(list)
    for name, ladder in ladders:
        names[name] += 1
        if names[name] == 2:
            remarks.append(f"Several files have the name {name!r}; each file has its own row.")
        row = name if names[name] == 1 else f"{name} ({names[name]})"
        for place in dict.fromkeys((shared.device, shared.rung.task) for shared in ladder.rungs):
            rungs = [shared.rung for shared in ladder.rungs if (shared.device, shared.rung.task) == place]
            entries[place].append((row, ladder, rungs))
    for group in look_alikes(names):
        remarks.append(f"These names look alike, but each of them is a different learner: {', '.join(map(spelled, group))}.")
    keys = sorted(entries, key=lambda place: (place[0], str(place[1])))
    return Board(tuple(_table(*place, entries[place]) for place in keys), sum(names.values()), tuple(remarks))


def _table(device: str, task: Task, entries: Sequence[tuple[str, SharedLadder, list[Rung]]]) -> Table:
    rungs = _in_order([[rung.name for rung in ladder] for _, _, ladder in entries])
    rows = tuple(
        Row(name, ladder.versions, _cells(own, rungs[0])) for name, ladder, own in sorted(entries, key=lambda entry: entry[0])
    )
    cells = {rung: [row.cells[rung] for row in rows if rung in row.cells] for rung in rungs}
    whole = {rung: middle for rung in rungs if (middle := _middle([cell for cell in cells[rung] if not cell.disturbed]))}
    return Table(device, task, rungs, rows, whole if len(rows) > 1 else {})


def _in_order(ladders: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The names of all rungs, sorted by their median position in the ladders.

    If two positions are equal, the more frequent rung comes first.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for ladder in ladders:
        for place, name in enumerate(ladder):
            places[name].append(place)
    return tuple(sorted(places, key=lambda name: (statistics.median(places[name]), -len(places[name]), name)))


def _cells(rungs: Sequence[Rung], baseline: str) -> dict[str, Cell]:
    """The cells of one learner. Each rung is compared with the learner's own baseline, which was timed on the same device."""
    first = [rung for rung in rungs if rung.name == baseline]
    times = times_faster([*first, *rungs])[len(first) :] if first else [math.nan] * len(rungs)
    return {
        rung.name: Cell(rung.tokens_per_second, rung.low, rung.high, ratio, rung.disturbed)
        for rung, ratio in zip(rungs, times, strict=True)
    }


def _middle(cells: Sequence[Cell]) -> Cell | None:
    """The median of the learners' cells with its quartiles, or None if there are no cells."""
    if not cells:
        return None
    speeds, ratios = [cell.speed for cell in cells], [cell.times for cell in cells if not math.isnan(cell.times)]
    low, middle, high = statistics.quantiles(speeds, n=4, method="inclusive") if len(speeds) > 1 else speeds * 3
    return Cell(middle, low, high, statistics.median(ratios) if ratios else math.nan, count=len(cells))
