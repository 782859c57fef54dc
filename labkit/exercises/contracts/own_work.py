"""The contract that learners do the work themselves: a function may not call anything in labkit that would do its work.

The function may use the modules that its arguments come from: for example, it may call a model or a clock that it is given, and
read the properties of a config. The contract sees only calls in the thread in which the check runs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from labkit.exercises.case import Case, directly
from labkit.exercises.contracts.watch import Watch

_CHECKING = ("labkit.grading", "labkit.exercises.contracts", "labkit.exercises.kernel", "labkit.measure")
"""Calls into these modules are allowed, because they run during every check or only display something."""
_NO_ANSWERS = ("<module>", "__getattr__", "__repr__", "__str__", "__format__", "__eq__", "__hash__")
"""Calls of code with these names are allowed, because such code cannot be the answer to an exercise: it is the code that a
module runs when it is imported, and methods for printing and comparing.
"""


@dataclass(frozen=True)
class OwnWork:
    """The learner's function must do its own work; `allowed` names functions of labkit that it may call."""

    allowed: tuple[str, ...] = ()

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[_Calls]:
        """Watch a call of the learner's function."""
        free = {module for value in _flat((case.args, case.kwargs)) for module in _modules_of(value)}
        calls = _Calls(getattr(function, "__name__", ""), (*_CHECKING, *free), self.allowed)
        before = sys.getprofile()
        sys.setprofile(calls.see)
        try:
            yield calls
        finally:
            sys.setprofile(before)


@dataclass
class _Calls(Watch):
    function: str
    free: tuple[str, ...]
    allowed: tuple[str, ...]
    found: str = ""
    known: dict[CodeType, bool] = field(default_factory=dict)

    def see(self, frame: FrameType, event: str, argument: Any) -> None:
        """Remember the first call that the contract does not allow. Python calls this method at every call and return."""
        if event != "call" or self.found:
            return
        code = frame.f_code
        if code not in self.known:
            self.known[code] = self._could_answer(frame)
        if self.known[code] and _is_called_by_learner(frame):
            own = frame.f_locals.get("self")
            self.found = type(own).__name__ if code.co_name == "__init__" else code.co_name

    def _could_answer(self, frame: FrameType) -> bool:
        module, name = str(frame.f_globals.get("__name__", "")), frame.f_code.co_name
        if not module.startswith("labkit.") or name in (*_NO_ANSWERS, *self.allowed):
            return False
        return not module.startswith(self.free) or name == self.function

    def breach(self, value: Any) -> str:
        return f"it uses labkit's own {self.found}: compute the result from your function's arguments" if self.found else ""


def _is_called_by_learner(frame: FrameType) -> bool:
    """Whether the learner's function made this call itself or through a library such as torch; False if a function of labkit
    made it.
    """
    caller = frame.f_back
    while caller is not None and caller.f_code is not directly.__code__:
        module = str(caller.f_globals.get("__name__", ""))
        if module.startswith("labkit.") and not module.startswith(_CHECKING):
            return False
        caller = caller.f_back
    return caller is not None


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _modules_of(value: Any) -> Iterable[str]:
    """The modules of labkit that an argument comes from: the module of a function, or the modules of an object's class and base
    classes.
    """
    kinds: list[Callable[..., Any] | type] = [value] if callable(value) else []
    kinds += type(value).__mro__
    names = (str(getattr(kind, "__module__", "")) for kind in kinds)
    return [name for name in names if name.startswith("labkit.")]
