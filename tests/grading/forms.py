"""Small exercises for tests of the grading, with inputs of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise


def row_sums(rows: Any, scale: float) -> Any:
    return rows.sum(-1) * scale


def cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    return [Case(f"{n} rows", (torch.randn(n, 3, generator=generator), 2.0)) for n in (1, 4)]


def an_exercise(cases: Callable[[int], list[Case]] = cases, **changes: Any) -> Exercise:
    """An exercise with these cases; by default, their arguments are tensors."""
    form: dict[str, Any] = {
        "name": "lab99.row_sums",
        "lab": "99",
        "number": "9.1",
        "title": "Sums",
        "function": "row_sums",
        "statement": "Add up the rows.",
        "points": 10,
        "minutes": 1,
        "difficulty": 1,
        "hints": ("one", "two", "three"),
        "seconds": 20.0,
    }
    return Exercise(cases=cases, **form | changes)


def an_answer(
    reference: Callable[..., Any] = row_sums,
    cases: Callable[[int], list[Case]] = cases,
    mistakes: tuple[Callable[..., Any], ...] = (),
    **changes: Any,
) -> Answer:
    """An answer with this reference to an exercise with these cases. By default, the reference and the cases work on tensors.

    Mistakes that match no answer are added until there are four, as an answer requires. `changes` can name fields of the answer
    and the exercise.
    """
    known = [Mistake(f"mistake {number}", wrong) for number, wrong in enumerate(mistakes)]
    never = [Mistake(f"never {number}", lambda *arguments: "never") for number in range(4 - len(known))]
    own = {name: changes.pop(name) for name in ("names", "words", "explain") if name in changes}
    comparison = changes.pop("comparison", Comparison())
    return Answer(an_exercise(cases, **changes), reference, comparison, (*known, *never), **own)


def on(*values: Any) -> Callable[[int], list[Case]]:
    """Return a function that makes cases with one argument each, equal for every seed. Lists and dictionaries are new objects
    in every call.
    """
    return lambda seed: [Case(f"input {number}", (_fresh(value),)) for number, value in enumerate(values)]


def _fresh(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_fresh(item) for item in value)
    return {key: _fresh(item) for key, item in value.items()} if isinstance(value, dict) else value
