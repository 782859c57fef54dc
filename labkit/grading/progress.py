"""What a learner has done so far, kept on disk so that no finished run is lost."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from labkit.exercises.registry import all_exercises, of_lab
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, PASSED, Verdict
from labkit.home import home, write_atomically


@dataclass
class Standing:
    """One exercise's state: the last verdict, the best points, how often it was checked, and how many hints were shown."""

    verdict: str = NOT_ATTEMPTED
    points: int = 0
    checks: int = 0
    hints: int = 0
    updated: str = ""

    @property
    def words(self) -> str:
        """The last verdict, and where it was not the best that it was better before."""
        return f"{self.verdict} now, passed before" if self.verdict == FAILED and self.points else self.verdict


def _standing(row: Any) -> Standing:
    """A standing as it was stored; raises `TypeError` for anything else."""
    standing = Standing(**row)
    for name, start in asdict(Standing()).items():
        if type(getattr(standing, name)) is not type(start):
            raise TypeError(f"{name} is {getattr(standing, name)!r}")
    return standing


class Progress:
    """All standings, in `progress.json` of labkit's home; every change is written at once and atomically.

    A process that sets `is_kept` to False changes nothing on disk.
    """

    is_kept: ClassVar[bool] = True

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "progress.json"

    def standings(self) -> dict[str, Standing]:
        """By exercise name; every exercise that exists is there. A damaged file counts as empty and is kept aside."""
        found = {exercise.name: Standing() for exercise in all_exercises()}
        try:
            stored = json.loads(self.path.read_text("utf-8"))
            found |= {name: _standing(row) for name, row in stored.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError):
            self.path.replace(self.path.with_suffix(".damaged"))
        return found

    def record(self, verdict: Verdict) -> None:
        """Keep a verdict; points once earned stay."""
        with self._changing() as standings:
            row = standings.setdefault(verdict.exercise, Standing())
            if not (row.verdict == PASSED and verdict.verdict == NOT_ATTEMPTED):
                row.verdict = verdict.verdict
            row.points = max(row.points, verdict.points)
            row.checks += verdict.verdict != NOT_ATTEMPTED
            row.updated = datetime.now(UTC).isoformat(timespec="seconds")

    def next_hints(self, name: str) -> list[int]:
        """Count one more hint and say which to show: the next one, and all three once they have been seen."""
        seen = self.standings()[name].hints
        number = self.next_hint(name)
        return [number] if seen < 3 else [0, 1, 2]

    def next_hint(self, name: str) -> int:
        """Count one more hint of an exercise and say which it is: 0, 1 or 2, and then 2 again."""
        with self._changing() as standings:
            row = standings[name]
            shown = min(row.hints, 2)
            row.hints = min(row.hints + 1, 3)
        return shown

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Standing]]:
        """The standings, to be changed in the block and then written; one process at a time, so that no change is lost."""
        if not self.is_kept:
            yield self.standings()
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            with contextlib.suppress(ImportError, OSError):  # Windows and some network disks have no such lock
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            standings = self.standings()
            yield standings
            write_atomically(self.path, json.dumps({name: asdict(row) for name, row in standings.items()}, indent=1) + "\n")

    def text(self, lab: str) -> str:
        """A lab's standing for a terminal: a line an exercise and the points reached."""
        standings = self.standings()
        exercises = of_lab(lab)
        lines = [
            f"{'✓' if standings[e.name].points else '·'} {e.number} {e.title}: {standings[e.name].words}, "
            f"{standings[e.name].points}/{e.points}"
            for e in exercises
        ]
        reached = sum(standings[e.name].points for e in exercises)
        return "\n".join([*lines, f"Lab {lab}: {reached} of {sum(e.points for e in exercises)} points"])
