"""How far a learner is in a lab: the content of the progress panel, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.environment import describe
from labkit.exercises.core_path import Points, points
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import of_lab
from labkit.grading.find_answer import not_judged_here
from labkit.grading.hint_costs import FREE, HintCosts, hint_costs, in_words
from labkit.grading.progress import Progress, Standing
from labkit.grading.verdict import NOT_MEASURED


@dataclass(frozen=True)
class Row:
    """An exercise and its standing.

    `lacks` is a phrase about something that the exercise needs and this machine or copy of labkit lacks; "" if there is
    nothing.
    """

    exercise: Exercise
    standing: Standing
    lacks: str

    @property
    def is_done(self) -> bool:
        """Whether the exercise has ever passed."""
        return self.standing.points > 0

    @property
    def is_not_measured(self) -> bool:
        """Whether the exercise is open, and cannot be checked on this machine."""
        return bool(self.lacks) and not self.is_done

    @property
    def words(self) -> str:
        """The state in words, such as "passed" or "not measured here: needs an NVIDIA GPU"."""
        return f"{NOT_MEASURED}: {self.lacks}" if self.is_not_measured else self.standing.words

    @property
    def points(self) -> str:
        """The points that count, and the points that the hints cost, such as "7/10" or "7/10, hints cost 3"."""
        cost = f", hints cost {self.standing.hint_cost}" if self.standing.hint_cost else ""
        return f"{self.standing.earned}/{self.exercise.points}{cost}"

    @property
    def text(self) -> str:
        """The exercise, its points and its state in one line. The line begins with "core" or "extra"."""
        sign, exercise = "✓" if self.is_done else "·", self.exercise
        named = f"{exercise.track:<5} {sign} {exercise.number} {exercise.title}"
        return f"{named}, {self.points} points: {self.words}"


@dataclass(frozen=True)
class LabState:
    """A lab, its exercises in order, and the costs of hints."""

    lab: str
    rows: Sequence[Row]
    hint_costs: HintCosts = FREE

    @property
    def points(self) -> Points:
        """The points that count, and the points that can be reached, in all exercises and on the core path."""
        return points([(row.exercise, row.standing.earned, row.exercise.points) for row in self.rows])

    @property
    def head(self) -> str:
        """The points, for example "Lab 00: 10 of 65 points; core path: 10 of 55 points"."""
        return f"Lab {self.lab}: {self.points.words}; {self.points.core_words}"

    @property
    def words(self) -> str:
        """How many exercises are done, how many are not measured here, and how many minutes the open exercises take."""
        return self._words(self.rows)

    @property
    def core_words(self) -> str:
        """The sentence of `words`, but only for the exercises on the core path."""
        return f"Core path: {self._words([row for row in self.rows if row.exercise.core])}"

    @staticmethod
    def _words(rows: Sequence[Row]) -> str:
        open_ones = [row for row in rows if not row.is_done]
        minutes = sum(row.exercise.minutes for row in open_ones)
        elsewhere = [row for row in open_ones if row.is_not_measured]
        left = f"about {minutes} minutes of exercises left" if open_ones else "nothing left to do"
        if elsewhere:
            left += f", {sum(row.exercise.minutes for row in elsewhere)} of them for exercises that are not measured here"
        done = f"{len(rows) - len(open_ones)} of {len(rows)} exercises done"
        return f"{done}; {len(elsewhere)} not measured here; {left}"

    @property
    def text(self) -> str:
        """A text with one line for each exercise, and then lines about the whole lab, the core path and the costs of hints."""
        help_words = f"{in_words(self.hint_costs)} See hint(my_function). After a pass, see solution(my_function)."
        return "\n".join([*(row.text for row in self.rows), self.head, self.words, self.core_words, help_words])


def lab_state(lab: str) -> LabState:
    """The state of a lab ("01") from the progress on disk. Raises `InvalidRequest` if there is no such lab, or if the course's
    rules about hints are invalid.
    """
    exercises = of_lab(lab)
    standings = Progress().standings()
    machine = describe() if any(exercise.requires for exercise in exercises) else None
    lacks = {exercise.name: not_judged_here(exercise, machine) for exercise in exercises}
    rows = [Row(exercise, standings[exercise.name], lacks[exercise.name]) for exercise in exercises]
    return LabState(lab, rows, hint_costs())
