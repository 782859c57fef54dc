"""The type `Exercise`: what an exercise asks for, which inputs the learner's function gets, and how its result is observed.

The right answer is not part of the exercise: see `labkit.answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.case import Case, directly
from labkit.exercises.contracts import Contract, KernelContract, OwnWork


@dataclass(frozen=True)
class Exercise:
    """An exercise, without its answer.

    - `function` is the name of the function that the learner writes.
    - `cases(seed)` makes the inputs. Their sizes are uneven: some sizes are 1, and some are not powers of two.
    - `hints` are three hints: first a question, then the idea and the operation that it needs, then one line of the answer.
    - `requires` names what the machine must have ("cuda", ...). Without these, the verdict is "not measured here".
    - `writes` lists the positions of the arguments that the function must change.
    - `observe(case, value)` returns the answer to compare, because the answer can also be a change to an argument.
    - `run(function, case)` makes the call, for example on several ranks. By default the call is made in this process.
    - `prepare(case)` starts what the call needs, such as processes, before the time limit begins.
    - `needs` names folders of labkit with answers to other exercises that the call needs. Other calls cannot see these folders.
    - `seconds` is the time limit of one call.
    - `ends_at_error`: after a case that raises an error, no further case is tried, because each case would take seconds.
    - `decides(value)` returns a sentence about a wrong answer that can be judged without the right answer; "" for any other
      answer. After such an answer no further case is tried, and no known mistake is looked for.
    - `contract` is a rule for the function that does not concern the values that it returns.
    - `core` says whether the exercise is on its lab's core path (see `labkit.exercises.core_path`). Other exercises are extras.
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
    hints: tuple[str, str, str]
    requires: tuple[str, ...] = ()
    writes: tuple[int, ...] = ()
    observe: Callable[[Case, Any], Any] = lambda case, value: value
    run: Callable[[Callable[..., Any], Case], Any] = directly
    prepare: Callable[[Case], object] = lambda case: None
    needs: tuple[str, ...] = ()
    seconds: float = 20.0
    ends_at_error: bool = False
    decides: Callable[[Any], str] = lambda value: ""
    contract: Contract | None = None
    core: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.difficulty <= 5 or len(self.hints) != 3:
            raise InvalidRequest(
                f"exercise {self.name} has difficulty {self.difficulty} and {len(self.hints)} hints; an exercise needs a "
                f"difficulty from 1 to 5, and 3 hints"
            )

    def contracts(self) -> tuple[Contract, ...]:
        """The contracts that watch a call: the exercise's own contract, and `OwnWork`.

        `OwnWork` sees only calls in this process. `OwnWork` is left out if the exercise has a contract on kernels, which checks
        the same rule.
        """
        asked = (self.contract,) if self.contract else ()
        is_seen = self.run is not directly or isinstance(self.contract, KernelContract | OwnWork)
        return asked if is_seen else (OwnWork(), *asked)

    @property
    def track(self) -> str:
        """Whether the exercise is on the core path, as a word: "core" or "extra"."""
        return "core" if self.core else "extra"

    def heading(self) -> str:
        """The Markdown text that introduces the exercise in a notebook. The text says whether the exercise is core or extra."""
        dots = "●" * self.difficulty + "○" * (5 - self.difficulty)
        return (
            f"### Exercise {self.number} ({self.track}) · {self.title}\n\n"
            f"*{self.points} points · about {self.minutes} minutes · difficulty {dots}*\n\n{self.statement}"
        )
