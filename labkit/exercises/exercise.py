"""The type `Exercise`: everything that the notebook, the checker and the grader need to know about an exercise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.case import Case, directly
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import Contract, KernelContract, OwnWork


@dataclass(frozen=True)
class Mistake:
    """A mistake that learners make: a function that makes it, and a message that helps the learner.

    A learner may make two mistakes at once. labkit can combine two mistakes if both implementations are `functools.partial`
    objects of the same function that set different options. Example: `partial(count, norms=2)` and
    `partial(count, head_bias=False)`. Two mistakes that set the same option are not combined. To keep two mistakes from being
    combined, let both set the same option; one of them may set the option to its right value.
    """

    message: str
    implementation: Callable[..., Any]

    def together(self, other: Mistake) -> Mistake | None:
        """The mistake of a learner who makes these two mistakes at once; None if the mistakes cannot be combined."""
        one, two = self.implementation, other.implementation
        if not isinstance(one, partial) or not isinstance(two, partial) or one.func is not two.func:
            return None
        if one.args or two.args or one.keywords.keys() & two.keywords.keys():
            return None
        message = f"Two things are wrong. First: {self.message} Second: {other.message}"
        return Mistake(message, partial(one.func, **one.keywords, **two.keywords))


@dataclass(frozen=True)
class Exercise:
    """An exercise.

    - `function` is the name of the function that the learner writes.
    - `cases(seed)` makes the inputs. Their sizes are uneven: some sizes are 1, and some are not powers of two.
    - `reference` is the right implementation; each of `mistakes` is wrong for at least one case of every seed.
    - `hints` are three hints: first a question, then the idea and the operation for it, then one line of the answer.
    - `requires` names what the machine must have ("cuda", ...). If the machine lacks it, the verdict is "not measured here".
    - `writes` lists the positions of the arguments that the function must change.
    - `observe(case, value)` returns the answer to compare, because an answer may also be a change of an argument.
    - `run(function, case)` makes the call, for example on several ranks. By default the call is made in this process.
    - `prepare(case)` starts what the call needs, such as processes, before the time limit begins.
    - `seconds` is the time limit of one call.
    - `ends_at_error`: after a case that raises, no further case is tried, because each further case would take seconds.
    - `decides(value)` is what is wrong with an answer that can be judged alone, as a sentence; "" for any other answer. After
      such an answer no further case is tried, and no known mistake is looked for.
    - `contract` is a rule for the function that does not concern its values.
    - `names` are the exercise's own names for places in an answer: "[1]" is "normed", for example.
    - `words(found, right)` describes a wrong value.
    - `explain(case, found, right)` says what is wrong with an answer of the right type and shape; "" if it does not know.
      If the answer is a dictionary, the lists in it may have a wrong length.
    """

    name: str
    lab: str
    number: str
    title: str
    function: str
    statement: str
    points: int
    minutes: int
    difficulty: int
    cases: Callable[[int], list[Case]]
    reference: Callable[..., Any]
    comparison: Comparison
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, str, str]
    requires: tuple[str, ...] = ()
    writes: tuple[int, ...] = ()
    observe: Callable[[Case, Any], Any] = lambda case, value: value
    run: Callable[[Callable[..., Any], Case], Any] = directly
    prepare: Callable[[Case], object] = lambda case: None
    seconds: float = 20.0
    ends_at_error: bool = False
    decides: Callable[[Any], str] = lambda value: ""
    contract: Contract | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    words: Callable[[Any, Any], str] | None = None
    explain: Callable[[Case, Any, Any], str] | None = None

    def __post_init__(self) -> None:
        if not 4 <= len(self.mistakes) <= 18 or not 1 <= self.difficulty <= 5 or len(self.hints) != 3:
            raise InvalidRequest(
                f"exercise {self.name}: {len(self.mistakes)} mistakes, difficulty {self.difficulty}, {len(self.hints)} hints; "
                f"an exercise needs 4 to 18 mistakes, a difficulty from 1 to 5, and 3 hints"
            )

    def answer(self, case: Case) -> Any:
        """The right answer for a case."""
        return self.observe(case, self.run(self.reference, case))

    def known_mistakes(self) -> Iterator[Mistake]:
        """All known mistakes: first the single mistakes, then every pair that can be combined."""
        yield from self.mistakes
        for one, other in combinations(self.mistakes, 2):
            if both := one.together(other):
                yield both

    def contracts(self) -> tuple[Contract, ...]:
        """The contracts that watch a call: the exercise's own contract, and `OwnWork`.

        `OwnWork` sees only calls in this process. It is left out if the exercise has a contract on kernels, which checks the
        same rule.
        """
        asked = (self.contract,) if self.contract else ()
        is_seen = self.run is not directly or isinstance(self.contract, KernelContract | OwnWork)
        return asked if is_seen else (OwnWork(), *asked)

    def heading(self) -> str:
        """The Markdown text that introduces the exercise in a notebook."""
        dots = "●" * self.difficulty + "○" * (5 - self.difficulty)
        return (
            f"### Exercise {self.number} · {self.title}\n\n"
            f"*{self.points} points · about {self.minutes} minutes · difficulty {dots}*\n\n{self.statement}"
        )
