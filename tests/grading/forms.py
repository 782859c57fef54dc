"""Small exercises for tests of the grading, with inputs of each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake


def row_sums(rows: Any, scale: float) -> Any:
    return rows.sum(-1) * scale


def cases(seed: int) -> list[Case]:
    generator = torch.Generator().manual_seed(seed)
    return [Case(f"{n} rows", (torch.randn(n, 3, generator=generator), 2.0)) for n in (1, 4)]


def an_exercise(
    reference: Callable[..., Any] = row_sums,
    cases: Callable[[int], list[Case]] = cases,
    mistakes: tuple[Callable[..., Any], ...] = (),
    **changes: Any,
) -> Exercise:
    """An exercise with this reference (default: one on tensors). More mistakes are added up to the required number."""
    known = [Mistake(f"mistake {number}", wrong) for number, wrong in enumerate(mistakes)]
    never = [Mistake(f"never {number}", lambda *arguments: "never") for number in range(4 - len(known))]
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
        "comparison": Comparison(),
        "hints": ("one", "two", "three"),
        "seconds": 20.0,
    }
    return Exercise(reference=reference, cases=cases, mistakes=(*known, *never), **form | changes)


def on(*values: Any) -> Callable[[int], list[Case]]:
    """Cases with one argument each, the same for every seed. Lists and dictionaries are new objects in every call."""
    return lambda seed: [Case(f"input {number}", (_fresh(value),)) for number, value in enumerate(values)]


def _fresh(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return type(value)(_fresh(item) for item in value)
    return {key: _fresh(item) for key, item in value.items()} if isinstance(value, dict) else value
