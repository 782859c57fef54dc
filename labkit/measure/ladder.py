"""The learner's speed ladders, stored on disk. There is one ladder for each task.

Each rung of a ladder is an engine that the learner built, with its tokens per second.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.environment import describe
from labkit.home import home, locked, set_aside, write_atomically
from labkit.measure.disturbed import CELL_AGAIN, MARK
from labkit.measure.ladder_file import write_ladder_file
from labkit.measure.rung import Rung, by_task, ladder_note, times_faster
from labkit.measure.task import Task
from labkit.measure.timing import Timing
from labkit.plurals import counted

WITHOUT_TASK = {"name", "tokens_per_second", "low", "high", "details"}
"""The entries of a rung from an older version of labkit, which did not store the task."""
SEVERAL = (
    "Each task has its own ladder, because speeds of different tasks cannot be compared. A number with x says how many times "
    "as fast a rung is as the first rung of its ladder."
)
"""The first line of the text, if there are several ladders."""
BAR = 30
"""The number of characters in the longest bar of a ladder."""


class Ladder:
    """The rungs of all ladders, in the order of their first measurement.

    A new measurement of a rung replaces the old one with the same task and name, and keeps its position.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "ladder.json"

    @property
    def rungs(self) -> list[Rung]:
        """The rungs of all tasks; an empty list if nothing was measured yet or the file cannot be read.

        Rungs that an older version of labkit stored without a task are left out.
        """
        return self._read_what_is_there()[0]

    def of(self, task: Task) -> list[Rung]:
        """The rungs of one task."""
        return [rung for rung in self.rungs if rung.task == task]

    def add(
        self,
        task: Task,
        name: str,
        tokens_per_second: float,
        *,
        low: float | None = None,
        high: float | None = None,
        disturbed: str = "",
        **details: Any,
    ) -> Rung:
        """Add or replace a rung.

        `low` and `high` are the quartiles of the speed, and `disturbed` says why the speed cannot be trusted. Rungs that an
        older version of labkit stored without a task are removed. Raises `InvalidRequest` unless the speed is positive, finite
        and between its quartiles. An unreadable file is renamed: its suffix becomes `.damaged`.
        """
        low = tokens_per_second if low is None else low
        high = tokens_per_second if high is None else high
        rung = Rung(task, name, tokens_per_second, low, high, disturbed, details, this_device())
        with locked(self.path):  # otherwise two notebooks that add rungs at once would lose one of them
            self._put(rung)
        return rung

    def add_timings(self, task: Task, timings: Mapping[str, Timing], **details: Any) -> None:
        """Add or replace the rungs of engines that were timed in turn. timings: the times of each engine, by its name.

        Each timed run did the whole task once.
        """
        for name, timing in timings.items():
            low, high = task.tokens / timing.high, task.tokens / timing.low
            speed, disturbed = task.tokens / timing.median, timing.disturbed
            self.add(task, name, speed, low=low, high=high, disturbed=disturbed, runs=timing.runs, **details)

    def export(self, path: str | Path, name: str) -> Path:
        """Write all ladders to a file that can be shared, and return its path. `name` is the only personal data in the file.

        Raises `NotAvailable` if there are no rungs, and `InvalidRequest` if the name is empty or too long, or if `path` is an
        existing file that is not a ladder.
        """
        write_ladder_file(Path(path), name, self.rungs)
        return Path(path)

    def text(self, again: str = CELL_AGAIN) -> str:
        """Return all ladders as text, each below the description of its task.

        Each rung has a bar, its speed, and the ratio of its speed to the speed of the ladder's first rung. If the measurement
        of one of these two rungs was disturbed, there is no ratio; disturbed rungs are marked, and a note says why. again: an
        instruction that says how to measure a disturbed rung again.
        """
        rungs, left_out = self._read_what_is_there()
        ladders = [_ladder_text(ladder, again) for ladder in by_task(rungs)]
        if len(ladders) > 1:
            ladders.insert(0, SEVERAL)
        if left_out:
            ladders.append(
                f"{counted(left_out, 'rung')} of an older version of labkit cannot be shown, because it is not known which "
                "task was measured. Run the cells of the labs that measure them again."
            )
        return "\n\n".join(ladders) or "Your ladder is empty: run a lab's measurements first."

    def _put(self, rung: Rung) -> None:
        """Write the file again, with this rung in it."""
        try:
            rungs, _ = self._read()
        except FileNotFoundError:
            rungs = []
        except (OSError, ValueError, TypeError):
            set_aside(self.path)
            rungs = []
        places = [index for index, old in enumerate(rungs) if (old.task, old.name) == (rung.task, rung.name)]
        if places:
            rungs[places[0]] = rung
        else:
            rungs.append(rung)
        write_atomically(self.path, json.dumps([asdict(row) for row in rungs], indent=1) + "\n")

    def _read_what_is_there(self) -> tuple[list[Rung], int]:
        """Return the result of `_read`, or no rungs if the file is missing or unreadable."""
        try:
            return self._read()
        except (OSError, ValueError, TypeError):
            return [], 0

    def _read(self) -> tuple[list[Rung], int]:
        """Return the rungs in the file that have a task, and the number of rungs that have none and are left out."""
        rows = [dict(row) for row in json.loads(self.path.read_text("utf-8"))]
        known = [row for row in rows if set(row) != WITHOUT_TASK]
        rungs = [Rung(**row | {"task": Task(**row.get("task", {}))}) for row in known]
        return rungs, len(rows) - len(known)


@functools.cache
def this_device() -> str:
    """Describe this machine in words: its processor, its usable cores, and its GPUs."""
    return str(describe())


def _ladder_text(rungs: list[Rung], again: str) -> str:
    """Return the ladder of one task as text."""
    width = max(len(rung.name) for rung in rungs)
    most = max(rung.tokens_per_second for rung in rungs)
    lines = [str(rungs[0].task)]
    for rung, times in zip(rungs, times_faster(rungs), strict=True):
        bar = "█" * max(1, round(BAR * rung.tokens_per_second / most))
        compared = MARK if rung.disturbed else "" if math.isnan(times) else f"{times:>6.1f} x"
        line = f"  {rung.name:<{width}}  {bar:<{BAR}}  {rung.tokens_per_second:>9,.1f} tokens/s  {compared}"
        lines.append(line.rstrip())
    return "\n".join([*lines, *filter(None, [ladder_note(rungs, again)])])
