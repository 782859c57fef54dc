"""Inputs that can only be chosen with the answer in hand: the code that draws them belongs to the answers."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping

from labkit.errors import NotAvailable
from labkit.exercises.case import Case

Maker = Callable[[int], list[Case]]


class HeldCases:
    """The field `cases` of an exercise whose inputs are drawn by its answer.

    Some inputs are useful only if the right answer has a certain property, and code that knows the right answer must not be in
    a process with a learner's code. Where labkit's answers are installed, they set `maker`. A process without the answers gets
    the inputs as text, from `written` of another process.
    """

    def __init__(self) -> None:
        self.maker: Maker | None = None
        self._given: dict[int, str] = {}

    def __call__(self, seed: int) -> list[Case]:
        """The cases of a seed. Raises `NotAvailable` if this process has neither the answer nor the written cases."""
        if seed in self._given:
            return [Case(label, args) for label, args in ast.literal_eval(self._given[seed])]
        if self.maker is None:
            raise NotAvailable("this copy of labkit has no answers, and the inputs of this exercise come with its answer")
        return self.maker(seed)

    def written(self, seed: int) -> str:
        """The cases of a seed as a Python literal. Their arguments must be plain values."""
        return repr([(case.label, case.args) for case in self(seed)])

    def give(self, written: Mapping[int, str]) -> None:
        """Use these written cases, by seed."""
        self._given = dict(written)
