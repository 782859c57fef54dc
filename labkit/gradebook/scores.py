"""Computes the scores of learners: which attempt at a lab counts, how many of its points count, and the verdict on the lab."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from labkit.exercises.core_path import CORE, FULL, Points, points
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise as find
from labkit.exercises.registry import of_lab
from labkit.gradebook.book import Attempt, Item, Ungraded
from labkit.gradebook.policy import Policy
from labkit.grading.verdict import (
    ERROR,
    FAILED,
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    NOT_MEASURED,
    PARTIAL,
    PASSED,
    TIMED_OUT,
    UNGRADED,
)
from labkit.plurals import counted

VERDICTS = (PASSED, PARTIAL, UNGRADED, FAILED, ERROR, TIMED_OUT, INCONCLUSIVE, NOT_MEASURED, NOT_ATTEMPTED)
"""All verdicts of a gradebook. Every item ends with one of them."""


WAITING = "The grading machine failed, so a part of the newest submission has no result yet. It will be graded again."
"""What a learner sees. The reason is only for the instructor; otherwise a learner could cause failures to read the reasons."""


@dataclass(frozen=True)
class LabScore:
    """The score of a learner in a lab.

    - `attempt` is the attempt that counts: the attempt with the most points after the policy is applied, or the earliest of
      several such attempts. It is None if no attempt counts. `attempts` is the number of all attempts.
    - `items` has one result for each exercise of the lab, in the order of the course.
    - `points` are the points of the attempt before the policy is applied, in all exercises and on the core path.
    - `track` says which exercises count: "core" or "full".
    - `score` is the number of points that count, after the policy is applied.
    - `not_measured` is the number of points in exercises that count, but could not be measured on the grading machine.
    - `remark` explains the score in words.
    - `ungraded` says, for the instructor, why exercises of a submission could not be graded; "" if all were graded.
    """

    learner: str
    lab: str
    attempt: Attempt | None
    attempts: int
    items: tuple[Item, ...]
    points: Points
    score: float
    not_measured: float
    days_late: int
    remark: str
    track: str = FULL
    ungraded: str = ""

    @property
    def is_waiting(self) -> bool:
        """Whether there is no score yet, because the machine failed while it graded the only submission."""
        return self.attempt is None and bool(self.ungraded)

    @property
    def counted(self) -> float:
        """The points on this track, before the policy is applied."""
        return self.points.core_reached if self.track == CORE else self.points.reached

    @property
    def most(self) -> float:
        """The largest score that this lab can have."""
        return self.points.core_out_of if self.track == CORE else self.points.out_of

    @property
    def verdict(self) -> str:
        """The verdict on the exercises that count (see `verdict_of`)."""
        return verdict_of([item.verdict for item in self.items if counts(item, self.track)])


def counts(item: Item, track: str) -> bool:
    """Whether the points of an item count on this track."""
    return track == FULL or find(item.exercise).core


def verdict_of(verdicts: Sequence[str]) -> str:
    """One verdict for several items: "passed" if all passed, "partial" if some earned points, else the first in `VERDICTS`.

    "not attempted" comes last in `VERDICTS`, so it is the verdict only if no item was attempted.
    """
    if all(verdict == PASSED for verdict in verdicts):
        return PASSED
    if PASSED in verdicts or PARTIAL in verdicts:
        return PARTIAL
    return next(verdict for verdict in VERDICTS if verdict in verdicts)


def lab_score(
    learner: str, lab: str, attempts: Iterable[Attempt], policy: Policy, ungraded: Iterable[Ungraded] = ()
) -> LabScore:
    """The score of a learner in a lab.

    `attempts` and `ungraded` may also contain entries of other learners and labs. If there is no attempt at this lab, the score
    is zero.
    """
    waiting = [one for one in ungraded if (one.learner, one.lab) == (learner, lab)]
    why = waiting[-1].reason if waiting else ""
    own = [attempt for attempt in attempts if (attempt.learner, attempt.lab) == (learner, lab)]
    allowed = [attempt for attempt in own if policy.counts(attempt.number)]
    scores = [_score_of(attempt, len(own), policy, waiting) for attempt in allowed]
    if not scores:
        missing = "No notebook of this lab was submitted, or it could not be read."
        names = {one.exercise for one in waiting}
        items = tuple(_missing(exercise, missing, exercise.name in names) for exercise in of_lab(lab))
        remark = WAITING if waiting else missing
        return LabScore(learner, lab, None, len(own), items, _points(items), 0, 0, 0, remark, policy.track, why)
    best = max(scores, key=lambda score: score.score)
    remark = " ".join(filter(None, [_remark(best, len(own), policy), WAITING if waiting else ""]))
    return replace(best, remark=remark, ungraded=why)


def _score_of(attempt: Attempt, attempts: int, policy: Policy, waiting: Sequence[Ungraded]) -> LabScore:
    names = {one.exercise for one in waiting if one.sha256 == attempt.sha256}
    items = tuple(
        attempt.items.get(exercise.name, _missing(exercise, "This exercise was not graded.", exercise.name in names))
        for exercise in of_lab(attempt.lab)
    )
    days = policy.days_late(attempt.lab, attempt.submitted)
    counted_items = [item for item in items if counts(item, policy.track)]
    unmeasured = sum(item.out_of for item in counted_items if item.verdict == NOT_MEASURED)
    sums = _points(items)
    found = LabScore(attempt.learner, attempt.lab, attempt, attempts, items, sums, 0, unmeasured, days, "", policy.track)
    return replace(found, score=round(found.counted * policy.percent(attempt.lab, attempt.submitted) / 100, 2))


def _points(items: Sequence[Item]) -> Points:
    return points([(find(item.exercise), item.points, item.out_of) for item in items])


def _missing(exercise: Exercise, message: str, is_ungraded: bool) -> Item:
    """The item of an exercise without a result. `message` is shown unless the machine failed."""
    verdict, words = (UNGRADED, WAITING) if is_ungraded else (NOT_ATTEMPTED, message)
    return Item(exercise.name, f"{exercise.number} {exercise.title}", verdict, 0, exercise.points, words, "")


def _remark(score: LabScore, attempts: int, policy: Policy) -> str:
    """Sentences that say which attempt counts, and why some of its points do not count."""
    assert score.attempt is not None
    words = []
    if attempts > 1:
        words.append(f"Attempt {score.attempt.number} of {attempts} counts.")
    if policy.most_attempts and attempts > policy.most_attempts:
        words.append(f"Only the first {counted(policy.most_attempts, 'attempt')} may count.")
    if score.days_late:
        percent = policy.percent(score.lab, score.attempt.submitted)
        words.append(f"{counted(score.days_late, 'day')} late: {percent:g} % of the points count.")
    if score.counted < score.points.reached:
        words.append(f"Only the core path counts: {score.points.reached - score.counted:g} points of extras do not.")
    if score.not_measured:
        words.append(f"{score.not_measured:g} points could not be measured on the grading machine.")
    return " ".join(words)
