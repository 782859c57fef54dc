"""Presents the course's answers as if a learner had written them: an exercise's contract must not mistake these answers for
functions of labkit.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from labkit.grading.lab_notebooks import solved_notebook

SOLUTIONS = Path(__file__).parents[2] / "solutions"


def solution_source(lab: str) -> str:
    """The source from which a lab's solved and unsolved notebooks are made; `lab` is its number, such as "02"."""
    (path,) = SOLUTIONS.glob(f"{lab}_*.py")
    return path.read_text("utf-8")


def solved_cells(lab: str) -> list[str]:
    """The code cells of a lab's solved notebook."""
    return [cell.source for cell in solved_notebook(solution_source(lab)).cells if cell.cell_type == "code"]


def as_learners(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function from a second copy of its module, whose name does not begin with `labkit`.

    The functions of labkit that the module imports are copied too.
    """
    module = inspect.getmodule(function)
    assert isinstance(module, ModuleType)
    assert module.__file__
    spec = importlib.util.spec_from_file_location(f"learners_{module.__name__.replace('.', '_')}", module.__file__)
    assert spec
    assert spec.loader
    copy = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = copy  # dataclasses look for their module here
    spec.loader.exec_module(copy)
    for name, value in list(vars(copy).items()):
        if isinstance(value, FunctionType) and value.__module__.startswith("labkit."):
            setattr(copy, name, as_learners(value))
    found: Callable[..., Any] = getattr(copy, function.__name__)
    return found
