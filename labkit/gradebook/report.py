"""Everything that the exports show: the learners, their scores in each lab, and the notes of the last run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from labkit.exercises.core_path import FULL
from labkit.gradebook.book import Gradebook, Ungraded
from labkit.gradebook.collect import Note
from labkit.gradebook.policy import Policy
from labkit.gradebook.scores import LabScore, lab_score


@dataclass(frozen=True)
class Report:
    """The class: `scores` has one entry for each learner and lab, sorted by learner and then by lab.

    `track` says which exercises count.
    """

    learners: tuple[str, ...]
    labs: tuple[str, ...]
    scores: tuple[LabScore, ...]
    notes: tuple[Note, ...]
    track: str = FULL

    def of_learner(self, learner: str) -> list[LabScore]:
        """The scores of a learner, by lab."""
        return [score for score in self.scores if score.learner == learner]

    def of_lab(self, lab: str) -> list[LabScore]:
        """The scores in a lab, by learner."""
        return [score for score in self.scores if score.lab == lab]

    def notes_on(self, learner: str) -> list[Note]:
        """The notes on a learner's files; "" stands for the whole class."""
        return [note for note in self.notes if note.learner == learner]


def report_of(book: Gradebook, run: int, labs: Iterable[str], policy: Policy, ungraded: Sequence[Ungraded] = ()) -> Report:
    """The report on a gradebook. It covers `labs` and every lab that has a submission, and contains the notes of this run.

    `ungraded` are exercises that still have to be graded, because the machine has failed.
    """
    attempts = book.attempts()
    learners = tuple(book.learners())
    shown = tuple(sorted({*labs, *(attempt.lab for attempt in attempts), *(one.lab for one in ungraded)}))
    own = {learner: [attempt for attempt in attempts if attempt.learner == learner] for learner in learners}
    scores = tuple(lab_score(learner, lab, own[learner], policy, ungraded) for learner in learners for lab in shown)
    return Report(learners, shown, scores, tuple(book.notes(run)), policy.track)
