"""Finds all exercises, the exercises of one lab, or a single exercise by its name or by the name of its function."""

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
    """The exercises of one lab ("01"); raises `InvalidRequest` if there is no such lab."""
    if lab not in LAB_TITLES:
        raise InvalidRequest(f"there is no lab {lab!r}; the labs are {', '.join(LAB_TITLES)}")
    return tuple(exercise for exercise in all_exercises() if exercise.lab == lab)


def exercise(name: str) -> Exercise:
    """The exercise with this full name ("lab00.kv_cache_bytes"), or with a function of this name ("kv_cache_bytes").

    Raises `InvalidRequest` if there is no such exercise; the message lists the functions that exist.
    """
    for candidate in all_exercises():
        if name in (candidate.name, candidate.function):
            return candidate
    known = ", ".join(candidate.function for candidate in all_exercises())
    raise InvalidRequest(f"no exercise asks for a function with the name {name!r}; exercises ask for these functions: {known}")
