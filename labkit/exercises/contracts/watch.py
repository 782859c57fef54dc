"""The form of a contract, and of one watched call."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

from labkit.exercises.case import Case


class Watch(Protocol):
    """One watched call."""

    def breach(self, value: Any) -> str:
        """How the call broke the contract, as the end of a sentence; empty if it kept the contract."""


class Contract(Protocol):
    """A demand on a function besides the values that it returns."""

    def watch(self, case: Case, function: Any) -> contextlib.AbstractContextManager[Watch]:
        """Watch a call of `function` on `case`; the call is made inside this block."""
