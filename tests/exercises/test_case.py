"""For every kind of callable, an error names the line of the learner's own code that led to the error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from labkit.exercises.case import own_line


def fails(value: int) -> int:
    return value // 0


@functools.wraps(fails)
def wrapped(value: int) -> int:
    return fails(value)


class Instance:
    def __call__(self, value: int) -> int:
        return fails(value)


@pytest.mark.parametrize(
    ("function", "line"),
    [(fails, "return value // 0"), (wrapped, "return value // 0"), (functools.partial(fails), ""), (Instance(), "")],
    ids=["function", "wrapped", "partial", "object"],
)
def test_the_last_line_of_the_function_is_named(function: Callable[..., Any], line: str) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        function(1)
    assert own_line(raised.value, function) == line
