"""The record of a learner's work. It is kept on disk, so that a restart loses nothing."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from labkit.exercises.registry import all_exercises
from labkit.grading.hint_costs import FREE, HintCosts
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, PASSED, Verdict, state
from labkit.home import home, locked, set_aside, write_atomically
from labkit.plurals import counted


@dataclass
class Standing:
    """The record of one exercise.

    It contains the verdict and the message of the last check, the highest points of all checks, the number of checks, and the
    number of hints that were shown. A failed check after a pass takes no points away. `hint_cost` is the number of points that
    the hints cost. `given_up` says whether the solution was shown before a pass.
    """

    verdict: str = NOT_ATTEMPTED
    points: int = 0
    checks: int = 0
    hints: int = 0
    updated: str = ""
    message: str = ""
    hint_cost: int = 0
    given_up: bool = False

    @property
    def earned(self) -> int:
        """The points that count: the highest points minus the cost of the hints; 0 if the solution was shown before a pass."""
        return 0 if self.given_up else max(self.points - self.hint_cost, 0)

    @property
    def remark(self) -> str:
        """Why fewer points count than the checks gave; "" if all points count."""
        if self.given_up:
            return "The solution was shown before, so this exercise earns no points."
        return f"Your hints cost {counted(self.hint_cost, 'point')}, so {self.earned} count." if self.hint_cost else ""

    def next_hint_cost(self, costs: HintCosts) -> int:
        """The number of points that the next hint costs.

        Hints are free after a pass, after the solution was shown, and after the third hint.
        """
        return 0 if self.points or self.given_up or self.hints >= len(costs) else costs[self.hints]

    @property
    def words(self) -> str:
        """The state in words: "passed before (10 points kept); the last check failed: Your cache has no values."."""
        said = state(self.verdict, self.earned)
        said = f"{said}: {self.message}" if self.verdict == FAILED and self.message else said
        return f"given up: solution shown; {said}" if self.given_up else said


class _NewerFile(ValueError):
    """The file has fields that this labkit does not know."""


def _standing(row: Any) -> Standing:
    """A standing from its stored form.

    Raises `TypeError` if the value is not the stored form of a standing, and `_NewerFile` if it has more fields.
    """
    if isinstance(row, dict) and set(row) > {field.name for field in fields(Standing)}:
        raise _NewerFile
    standing = Standing(**row)
    for name, start in asdict(Standing()).items():
        if type(getattr(standing, name)) is not type(start):
            raise TypeError(f"{name} is {getattr(standing, name)!r}")
    return standing


class Progress:
    """All standings, which are stored in `progress.json` in labkit's home. Every change is written at once and atomically.

    A process that sets `is_kept` to False changes nothing on disk.
    """

    is_kept: ClassVar[bool] = True

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "progress.json"

    def standings(self) -> dict[str, Standing]:
        """The standing of every exercise, by its name.

        If the file is damaged, or if a newer labkit wrote it, the file counts as empty. If this process may write, it renames
        such a file so that the file is not lost, and a sentence on stderr names the new file.
        """
        found = {exercise.name: Standing() for exercise in all_exercises()}
        try:
            stored = json.loads(self.path.read_text("utf-8"))
            found |= {name: _standing(row) for name, row in stored.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            if self.is_kept:
                self._set_aside(isinstance(error, _NewerFile))
        return found

    def _set_aside(self, is_newer: bool) -> None:
        """Rename the file, and print its new name."""
        with contextlib.suppress(FileNotFoundError):  # Another process has renamed it, and has said so.
            kept = set_aside(self.path)
            why = "was written by a newer version of labkit" if is_newer else "is damaged"
            later = f" To continue with it, install the newer version, and rename it to {self.path.name}." if is_newer else ""
            print(
                f"Your progress in {self.path} {why}, so labkit has renamed it to {kept.name}, and starts a new record.{later}",
                file=sys.stderr,
            )

    def record(self, verdict: Verdict) -> Standing:
        """Record a verdict and return the new standing of the exercise. Points from earlier checks are kept."""
        with self._changing() as standings:
            row = standings.setdefault(verdict.exercise, Standing())
            if not (row.verdict == PASSED and verdict.verdict == NOT_ATTEMPTED):
                row.verdict = verdict.verdict
                row.message = verdict.message if verdict.verdict == FAILED else ""
            row.points = max(row.points, verdict.points)
            row.checks += verdict.verdict != NOT_ATTEMPTED
            row.updated = datetime.now(UTC).isoformat(timespec="seconds")
        return row

    def give_up(self, name: str) -> Standing:
        """Record that the solution of an exercise is shown, and return the new standing. After a pass, nothing is recorded."""
        with self._changing() as standings:
            row = standings[name]
            row.given_up = row.given_up or not row.points
        return row

    def next_hints(self, name: str, costs: HintCosts = FREE) -> list[int]:
        """Count one more hint and its cost, and return which hints to show.

        The result is the next hint or, after the third hint, all three hints.
        """
        seen = self.standings()[name].hints
        number = self.next_hint(name, costs)
        return [number] if seen < 3 else [0, 1, 2]

    def next_hint(self, name: str, costs: HintCosts = FREE) -> int:
        """Count one more hint of an exercise and its cost, and return its number (0, 1 or 2). After the third hint the number
        stays 2.
        """
        with self._changing() as standings:
            row = standings[name]
            row.hint_cost += row.next_hint_cost(costs)
            shown = min(row.hints, 2)
            row.hints = min(row.hints + 1, 3)
        return shown

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Standing]]:
        """Yield the standings to a `with` block, which may change them.

        The standings are written at the end of the block. A lock lets only one process at a time run such a block.
        """
        if not self.is_kept:
            yield self.standings()
            return
        with locked(self.path):
            standings = self.standings()
            yield standings
            write_atomically(self.path, json.dumps({name: asdict(row) for name, row in standings.items()}, indent=1) + "\n")
