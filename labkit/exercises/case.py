"""The type `Case`, which is one input of an exercise, and functions that call a learner's function and explain its errors."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One input: a label in words, and the arguments for the call.

    New cases are made for each use, because a function can change its arguments.
    """

    label: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


def unwrapped(error: BaseException) -> list[BaseException]:
    """Return this error, followed by each error that it wraps. Triton's interpreter and compiler wrap the error that a kernel
    raises, so the last error in the list is the kernel's own.
    """
    cause = error.__cause__
    wrapped = type(error).__name__ == "InterpreterError" or type(cause).__name__ == "CompilationError"
    return [error, *unwrapped(cause)] if cause is not None and wrapped else [error]


def own_error(error: BaseException) -> BaseException:
    """The error that a kernel itself raised, without the errors that Triton has wrapped around it."""
    return unwrapped(error)[-1]


def own_line(error: BaseException, function: Callable[..., Any]) -> str:
    """The last line of the learner's function in the traceback of this error; "" if the traceback has no such line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = code.co_filename if code else None
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((frame.line for frame in frames if frame.filename == file and frame.line), "")


def directly(function: Callable[..., Any], case: Case) -> Any:
    """Call a function with the arguments of a case, in this process."""
    return function(*case.args, **case.kwargs)
