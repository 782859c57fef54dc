"""Finds the answer to an exercise."""

from __future__ import annotations

import functools
import importlib

from labkit.answers.answer import Answer
from labkit.exercises.exercise import Exercise


def answer_to(exercise: Exercise) -> Answer:
    """The answer to an exercise of the course. Raises `KeyError` if the exercise does not belong to the course."""
    return _answers_of(exercise.lab)[exercise.name]


@functools.cache
def _answers_of(lab: str) -> dict[str, Answer]:
    module = importlib.import_module(f"labkit.answers.lab{lab}")
    return {answer.exercise.name: answer for answer in module.ANSWERS}
