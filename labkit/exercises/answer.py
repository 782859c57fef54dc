"""The type `Answer`: the right implementation of an exercise, and implementations with known mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any, ClassVar

from labkit.errors import InvalidRequest
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise

MOST_MISTAKES = 20
"""The largest number of known mistakes that an exercise can have."""


@dataclass(frozen=True)
class Mistake:
    """A mistake that learners make: a function that makes it, and a message that helps the learner.

    A learner can make two mistakes at once. labkit combines two mistakes if their implementations are `functools.partial`
    objects of the same function that set different options, such as `partial(count, norms=2)` and
    `partial(count, head_bias=False)`. Two mistakes that set the same option are not combined. To keep two mistakes from being
    combined, let both set the same option; one of them can set it to its right value.
    """

    message: str
    implementation: Callable[..., Any]

    def together(self, other: Mistake) -> Mistake | None:
        """The mistake of a learner who makes this mistake and `other` at once; None if the two cannot be combined."""
        one, two = self.implementation, other.implementation
        if not isinstance(one, partial) or not isinstance(two, partial) or one.func is not two.func:
            return None
        if one.args or two.args or one.keywords.keys() & two.keywords.keys():
            return None
        message = f"Two things are wrong. First: {self.message} Second: {other.message}"
        return Mistake(message, partial(one.func, **one.keywords, **two.keywords))


@dataclass(frozen=True)
class Answer:
    """The answer to an exercise.

    - `reference` is the right implementation; each of `mistakes` is wrong for at least one case of every seed.
    - `comparison` says how close an answer must be.
    - `names` maps places in an answer to the exercise's own names for them: "[1]" is "normed", for example.
    - `words(found, right)` describes a wrong value.
    - `explain(case, found, right)` says what is wrong with an answer of the right type and shape; "" means that it cannot say.
      If the answer is a dictionary, the lists in the dictionary can have a wrong length.
    - `any_length`: whether `explain` also accepts a list of a wrong length, such as a list of chosen names.
    """

    exercise: Exercise
    reference: Callable[..., Any]
    comparison: Comparison
    mistakes: tuple[Mistake, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    words: Callable[[Any, Any], str] | None = None
    explain: Callable[[Case, Any, Any], str] | None = None
    any_length: bool = False
    source: ClassVar[str] = "the reference"

    def __post_init__(self) -> None:
        if not 4 <= len(self.mistakes) <= MOST_MISTAKES:
            raise InvalidRequest(
                f"the answer to {self.exercise.name} has {len(self.mistakes)} mistakes; an answer needs 4 to {MOST_MISTAKES} "
                "mistakes"
            )

    def to(self, case: Case) -> Any:
        """The right answer for a case."""
        return self.exercise.observe(case, self.exercise.run(self.reference, case))

    def expected(self, seed: int) -> list[Any]:
        """The right answers to the cases of a seed."""
        return [self.to(case) for case in self.exercise.cases(seed)]

    def known_mistakes(self) -> Iterator[Mistake]:
        """All known mistakes: first the single mistakes, then every pair that can be combined."""
        yield from self.mistakes
        for one, other in combinations(self.mistakes, 2):
            if both := one.together(other):
                yield both
