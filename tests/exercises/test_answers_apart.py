"""The reference answers are in folders that the sandbox hides from a learner's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import labkit
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.grading.find_answer import answer_to
from labkit.grading.sandbox import HIDDEN

LIBRARY = ("labkit.ops.",)
"""Reference implementations that users of labkit import too. They are not hidden; lab 02's contract detects calls of them."""


def module_of(function: Callable[..., Any]) -> str:
    """The name of the module that defines a function; for a `functools.partial`, of the module that defines the wrapped
    function.
    """
    return str(inspect.unwrap(getattr(function, "func", function)).__module__)


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda one: one.name)
def test_the_answers_of_an_exercise_are_hidden(exercise: Exercise) -> None:
    answer = answer_to(exercise)
    hidden = tuple("labkit." + folder.replace("/", ".") for folder in HIDDEN)
    modules = {module_of(one) for one in (answer.reference, *(mistake.implementation for mistake in answer.mistakes))}
    own = [module for module in modules if module.startswith("labkit.")]
    assert not [module for module in own if not module.startswith((*hidden, *LIBRARY))]


def test_hidden_folders_exist_and_an_exercise_sees_no_answer_of_its_own() -> None:
    assert not [folder for folder in HIDDEN if not (Path(labkit.__file__).parent / folder).is_dir()]
    for exercise in all_exercises():
        shown = tuple("labkit." + folder.replace("/", ".") for folder in exercise.needs)
        assert set(exercise.needs) <= set(HIDDEN)
        assert not shown or not module_of(answer_to(exercise).reference).startswith(shown)
