"""Checks a notebook again each time it is saved. Only functions whose code has changed are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from labkit.exercises.exercise import Exercise
from labkit.grading.needed_code import needed_code
from labkit.grading.notebook_check import asked_of, check_submission
from labkit.grading.submission import read_submission
from labkit.grading.verdict import INCONCLUSIVE, UNGRADED, Verdict
from labkit.grading.workers import Workers

Stamp = tuple[int, int, int]
"""The time of a file's last change in ns, its size in bytes, and its inode number."""


class WatchedNotebook:
    """A notebook file, and the newest verdict on each of its exercises (in `verdicts`, by exercise name)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.verdicts: dict[str, Verdict] = {}
        self._code: dict[str, str] = {}
        self._stamp: Stamp | None = None

    def is_saved(self) -> bool:
        """Whether the file was written after the last call of `check`. While the file is missing, the answer is False."""
        stamp = _stamp(self.path)
        return stamp is not None and stamp != self._stamp

    def check(self, progress: Callable[[Exercise], object], say: Callable[[str], object]) -> list[Verdict]:
        """Check the exercises whose code has changed since their last check, and return their verdicts.

        The first call checks every exercise. A check that was inconclusive, or in which the machine failed, is repeated in the
        next call. `progress` is called with each exercise before it runs, and `say` with a sentence about each cell that is
        left out. Raises `InvalidRequest` if the file is not a notebook, or defines no function of an exercise.
        """
        self._stamp = _stamp(self.path)  # before the file is read, so that a later write is noticed
        submission = read_submission(self.path)
        asked = asked_of(submission, self.path)
        for note in submission.notes:
            say(note)
        codes = {exercise.name: needed_code(submission, exercise.function) for exercise in asked}
        self.verdicts = {name: verdict for name, verdict in self.verdicts.items() if codes.get(name) == self._code[name]}
        changed = [exercise for exercise in asked if exercise.name not in self.verdicts]
        with Workers(submission.folder) as workers:
            for exercise in changed:
                progress(exercise)
                verdict = check_submission(exercise, submission, workers)
                self.verdicts[exercise.name] = verdict
                is_decided = verdict.verdict not in (INCONCLUSIVE, UNGRADED)
                self._code[exercise.name] = codes[exercise.name] if is_decided else ""
        return [self.verdicts[exercise.name] for exercise in changed]


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
