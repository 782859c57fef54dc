"""Long lists of test cases, of which `make test` runs some and `make test-all` runs all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def one_in(number: int, cases: Iterable[Any]) -> list[Any]:
    """The cases for `parametrize`. In every group of `number` cases, the first is unchanged and the others are marked `long`.

    If a case is a tuple, it holds one value for each argument.
    """
    return [case if place % number == 0 else _spread(case) for place, case in enumerate(cases)]


def chosen(argument: str, request: pytest.FixtureRequest) -> list[Any]:
    """The values of an argument in those tests of this file that will run, each once. A fixture prepares only these values."""
    given = [item.callspec.params for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    return list(dict.fromkeys(params[argument] for params in given if argument in params))


def as_long(*values: Any) -> Any:
    """A case for `parametrize` that only `make test-all` runs: one value for each argument."""
    return pytest.param(*values, marks=pytest.mark.long)


def _spread(case: Any) -> Any:
    return as_long(*case) if type(case) is tuple else as_long(case)
