"""All exercises of all labs, found by name, by lab or by the name of the learner's function."""

from __future__ import annotations

import functools
import importlib

from labkit.errors import InvalidRequest
from labkit.exercises.exercise import Exercise
from labkit.exercises.titles import LAB_TITLES


@functools.cache
def all_exercises() -> tuple[Exercise, ...]:
    """Every exercise, in the order of the labs."""
    return tuple(e for lab in LAB_TITLES for e in importlib.import_module(f"labkit.exercises.lab{lab}").EXERCISES)


def of_lab(lab: str) -> tuple[Exercise, ...]:
    """The exercises of one lab ("01"); raises `InvalidRequest` for a lab that is none."""
    if lab not in LAB_TITLES:
        raise InvalidRequest(f"there is no lab {lab!r}; {', '.join(LAB_TITLES)} exist")
    return tuple(exercise for exercise in all_exercises() if exercise.lab == lab)


def exercise(name: str) -> Exercise:
    """The exercise of a full name ("lab01.kv_cache_bytes"), or of its function's name.

    Raises `InvalidRequest` naming the exercises that exist.
    """
    for candidate in all_exercises():
        if name in (candidate.name, candidate.function):
            return candidate
    known = ", ".join(candidate.function for candidate in all_exercises())
    raise InvalidRequest(f"no exercise asks for a function called {name!r}; these do: {known}")
