"""The interface of a contract, and the interface of one watched call."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from labkit.exercises.case import Case


class Watch(Protocol):
    """A call of a learner's function that a contract watches."""

    def breach(self, value: Any) -> str:
        """A message about how the call broke the contract, as the end of a sentence; "" if the call kept the contract."""

    def clue(self) -> str:
        """An observation that can explain a wrong answer, as the end of a sentence; "" if there is none.

        A clue breaks no rule: a right answer with a clue passes.
        """
        return ""

    def clue_to_error(self, kind: str) -> str:
        """An observation that can explain why the call raised an error, as the end of a sentence; "" if there is none.

        `kind` is the name of the exception's class.
        """
        return ""


class Contract(Protocol):
    """A rule for a function that is not about the values that the function returns."""

    def watch(self, case: Case, function: Any) -> contextlib.AbstractContextManager[Watch]:
        """Watch a call of `function` with the input `case`. The caller makes the call inside the `with` block."""
