"""What a learner has done so far, kept on disk so that no finished run is lost."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from labkit.exercises.registry import all_exercises, of_lab
from labkit.grading.verdict import NOT_ATTEMPTED, PASSED, Verdict
from labkit.home import home, write_atomically


@dataclass
class Standing:
    """One exercise's state: the last verdict, the best points, how often it was checked, and how many hints were shown."""

    verdict: str = NOT_ATTEMPTED
    points: int = 0
    checks: int = 0
    hints: int = 0
    updated: str = ""


class Progress:
    """All standings, in `progress.json` of labkit's home; every change is written at once and atomically."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "progress.json"

    def standings(self) -> dict[str, Standing]:
        """By exercise name; every exercise that exists is there. A damaged file counts as empty and is kept aside."""
        found = {exercise.name: Standing() for exercise in all_exercises()}
        try:
            stored = json.loads(self.path.read_text("utf-8"))
            found |= {name: Standing(**row) for name, row in stored.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError):
            self.path.replace(self.path.with_suffix(".damaged"))
        return found

    def record(self, verdict: Verdict) -> None:
        """Keep a verdict; points once earned stay."""
        standings = self.standings()
        row = standings.setdefault(verdict.exercise, Standing())
        if not (row.verdict == PASSED and verdict.verdict == NOT_ATTEMPTED):
            row.verdict = verdict.verdict
        row.points = max(row.points, verdict.points)
        row.checks += verdict.verdict != NOT_ATTEMPTED
        row.updated = datetime.now(UTC).isoformat(timespec="seconds")
        self._write(standings)

    def next_hint(self, name: str) -> int:
        """Count one more hint of an exercise and say which it is: 0, 1 or 2, and then 2 again."""
        standings = self.standings()
        row = standings[name]
        shown = min(row.hints, 2)
        row.hints = min(row.hints + 1, 3)
        self._write(standings)
        return shown

    def _write(self, standings: dict[str, Standing]) -> None:
        write_atomically(self.path, json.dumps({name: asdict(row) for name, row in standings.items()}, indent=1) + "\n")

    def text(self, lab: str) -> str:
        """A lab's standing for a terminal: a line an exercise and the points reached."""
        standings = self.standings()
        exercises = of_lab(lab)
        lines = [
            f"{'✓' if standings[e.name].points else '·'} {e.number} {e.title}: {standings[e.name].verdict}, "
            f"{standings[e.name].points}/{e.points}"
            for e in exercises
        ]
        reached = sum(standings[e.name].points for e in exercises)
        return "\n".join([*lines, f"Lab {lab}: {reached} of {sum(e.points for e in exercises)} points"])
