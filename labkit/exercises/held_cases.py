"""Inputs that can be chosen only by code that knows the right answer. This code is part of the answers."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Mapping

from labkit.errors import NotAvailable
from labkit.exercises.case import Case


class HeldCases:
    """The `cases` of an exercise whose inputs are drawn by code that belongs to its answer.

    Some inputs are useful only if the right answer has a certain property, and code that knows the right answer must not be in
    a process with a learner's code. So, if labkit's answers are installed, the inputs are drawn by the function `make_cases`
    of the module `maker`. A process without the answers gets the inputs as text, which `written` made in another process.
    """

    def __init__(self, maker: str) -> None:
        self._maker = maker
        self._given: dict[int, str] = {}

    def __call__(self, seed: int) -> list[Case]:
        """The cases of a seed. Raises `NotAvailable` if this process has neither the answer nor the written cases."""
        if seed in self._given:
            return [Case(label, args) for label, args in ast.literal_eval(self._given[seed])]
        try:
            make_cases: Callable[[int], list[Case]] = importlib.import_module(self._maker).make_cases
        except ModuleNotFoundError:
            raise NotAvailable(
                "this copy of labkit has no answers, and the inputs of this exercise come with its answer"
            ) from None
        return make_cases(seed)

    def written(self, seed: int) -> str:
        """The cases of a seed as a Python literal. Their arguments must be plain values."""
        return repr([(case.label, case.args) for case in self(seed)])

    def give(self, written: Mapping[int, str]) -> None:
        """Use these written cases. `written` maps each seed to its cases."""
        self._given = dict(written)
