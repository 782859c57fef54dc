"""Finds the answer to an exercise, in a copy of labkit that has the answers."""

from __future__ import annotations

import functools
import importlib
import importlib.util

from labkit.errors import NotAvailable
from labkit.exercises.answer import Answer
from labkit.exercises.exercise import Exercise


def has_answers() -> bool:
    """Whether this copy of labkit has the answers. A process in which a learner's function is graded does not have them."""
    return importlib.util.find_spec("labkit.answers.lab00") is not None


def answer_to(exercise: Exercise) -> Answer:
    """The answer to an exercise of the course.

    Raises `KeyError` if the exercise does not belong to the course, and `NotAvailable` if this copy of labkit has no answers.
    """
    return _answers_of(exercise.lab)[exercise.name]


@functools.cache
def _answers_of(lab: str) -> dict[str, Answer]:
    if not has_answers():
        raise NotAvailable("this copy of labkit has no answers, so it cannot check functions")
    module = importlib.import_module(f"labkit.answers.lab{lab}")
    return {answer.exercise.name: answer for answer in module.ANSWERS}
