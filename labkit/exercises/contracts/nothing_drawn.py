"""A contract on randomness: the learner's function may not draw random numbers itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.contracts.torch_modes import Functions
from labkit.exercises.contracts.watch import Watch

_RANDOM = ("multinomial", "rand", "rand_like", "randn", "randint", "bernoulli", "uniform_", "exponential_")


@dataclass(frozen=True)
class NothingDrawn:
    """The function may not draw random numbers; `instead` tells the learner what to use."""

    instead: str

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[Watch]:
        """Watch a call of the learner's function."""
        drawn = _Drawn(self.instead)
        with Functions(drawn.function):
            yield drawn


@dataclass
class _Drawn(Watch):
    instead: str
    name: str = ""

    def function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in _RANDOM:
            self.name = name
        return func(*args, **kwargs)

    def breach(self, value: Any) -> str:
        return f"torch.{self.name} draws a random number of its own: {self.instead}" if self.name else ""
