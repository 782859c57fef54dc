"""Messages and hints lead to the answer without giving it away: only the last hint may contain a line of the solution."""

from __future__ import annotations

import re

import pytest

from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.grading.find_answer import answer_to
from tests.exercises.learners import solved_cells

WORD = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|\S")
LONGEST_IN_MESSAGE, LONGEST_IN_HINT = 4, 7
"""The most consecutive tokens of a solution that a message may contain, and that one of the first two hints may contain."""


def words_of(text: str) -> list[str]:
    return WORD.findall(text)


def solution_of(exercise: Exercise) -> list[str]:
    """The tokens of the solution's cell, without its comments and docstrings."""
    (cell,) = (cell for cell in solved_cells(exercise.lab) if f"def {exercise.function}(" in cell)
    return words_of(re.sub(r'""".*?"""|#.*', "", cell, flags=re.DOTALL))


def longest_part(text: str, code: list[str]) -> list[str]:
    """The longest sequence of consecutive tokens that is both in the text and in the code."""
    said = words_of(text)
    best: list[str] = []
    for start in range(len(said)):
        while (run := said[start : start + len(best) + 1]) and len(run) > len(best) and _stands_in(run, code):
            best = run
    return best


def _stands_in(run: list[str], code: list[str]) -> bool:
    return any(code[place : place + len(run)] == run for place in range(len(code)))


@pytest.mark.parametrize("exercise", all_exercises(), ids=lambda exercise: exercise.number)
def test_only_the_last_hint_holds_code_of_the_solution(exercise: Exercise) -> None:
    code = solution_of(exercise)
    for mistake in answer_to(exercise).mistakes:
        part = longest_part(mistake.message, code)
        assert len(part) <= LONGEST_IN_MESSAGE, (mistake.message, part)
        assert not re.search(r"\w=[\w\[(-]", mistake.message), f"an argument to paste: {mistake.message}"
    for hint in exercise.hints[:2]:
        part = longest_part(hint, code)
        assert len(part) <= LONGEST_IN_HINT, (hint, part)


def test_the_longest_part_is_found() -> None:
    code = words_of("x = tl.load(a + column, mask=inside, other=0.0)")
    assert longest_part("load with other=0.0, then add", code) == ["other", "=", "0.0"]
    assert longest_part("nothing of it", code) == []
