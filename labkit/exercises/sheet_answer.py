"""Classes that replace `Answer` in a copy of labkit without reference implementations: an answer from a sheet, or no answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from labkit.errors import NotAvailable
from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise


@dataclass(frozen=True)
class SheetAnswer:
    """The right values of an exercise, without the code that computes them, and without known mistakes.

    `values` holds the right answer to each case, for each seed of the sheet. `comparison` and `names` come from the same
    `Answer` as the values.
    """

    exercise: Exercise
    comparison: Comparison
    values: Mapping[int, Sequence[Any]]
    names: Mapping[str, str] = field(default_factory=dict)
    source: ClassVar[str] = "the answer sheet"
    words: ClassVar[None] = None
    explain: ClassVar[None] = None
    any_length: ClassVar[bool] = False

    def expected(self, seed: int) -> list[Any]:
        """The right answers to the cases of a seed. Raises `NotAvailable` for a seed that is not on the sheet."""
        if seed not in self.values:
            seeds = ", ".join(map(str, self.values))
            raise NotAvailable(f"the answer sheet of this copy has no values for the seed {seed}; it has {seeds}")
        return list(self.values[seed])

    def known_mistakes(self) -> Iterable[Mistake]:
        """Nothing, because a sheet contains no mistakes."""
        return ()


@dataclass(frozen=True)
class NoAnswer:
    """Stands for a missing answer: this copy of labkit does not know the right values. `why` is a sentence for the learner.

    If `has_inputs` is false, the inputs are missing too, because they come with the answer. Then the function cannot be called.
    """

    exercise: Exercise
    why: str
    has_inputs: bool = True


KnownAnswer = Answer | SheetAnswer
"""An object that gives the right values, with which a learner's values are compared."""
AnyAnswer = KnownAnswer | NoAnswer
