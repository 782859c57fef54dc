"""A count and its noun agree, in `counted` itself and in the texts that users see most often."""

from __future__ import annotations

import re

from labkit.exercises.registry import all_exercises
from labkit.plurals import counted


def test_a_noun_agrees_with_its_count() -> None:
    assert [counted(number, "token") for number in (0, 1, 2)] == ["0 tokens", "1 token", "2 tokens"]
    assert [counted(number, "copy", "copies") for number in (1, 3)] == ["1 copy", "3 copies"]


def test_no_case_of_an_exercise_says_1_sequences() -> None:
    wrong = re.compile(r"(?<![\w.,])1 (?!ms\b)[a-z]+s\b")
    for exercise in all_exercises():
        for case in (case for seed in (3, 11, 23) for case in exercise.cases(seed)):
            assert not wrong.search(case.label), (exercise.name, case.label)
