"""Imports run one way: a part of labkit uses only parts below it, and no two files import each other.

Imports inside functions and those for type checking alone count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    "errors extras forked host_memory json_file plain_values",
    "frames home precision config torch_state weight_formats",
    "environment tokenizer native",
    "measure",
    "checkpoints",
    "ops",
    "model",
    "engine",
    "parallel",
    "launch",
    "__init__",
    "builtin bench",
    "serving",
    "exercises",
    "grading",
    "lab",
    "cli",
    "__main__",
]
"""The parts of labkit from the ground up. Parts of one line may use those of lines before it, and not each other."""


def modules() -> dict[str, Path]:
    """Every module of labkit by its dotted name; a package's is its folder's `__init__.py`."""
    found = {}
    for path in sorted((ROOT / "labkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules of labkit that a file imports anywhere in it, each with its line."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((each.name, node.lineno) for each in node.names if each.name.split(".")[0] == "labkit")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "labkit":
            assert node.module is not None
            for each in node.names:
                name = f"{node.module}.{each.name}"
                yield (name if name in known else node.module), node.lineno


def part(module: str) -> str:
    """The part of labkit that a module belongs to: its folder, or itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_part_has_a_floor() -> None:
    named = [name for floor in FLOORS for name in floor.split()]
    assert sorted(named) == sorted({part(module) for module in modules()})


def test_arrows_run_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names.split()}
    known = modules()
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for module, path in known.items()
        for other, line in imports(path, known)
        if part(module) != part(other) and floor[part(other)] >= floor[part(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other() -> None:
    known = modules()
    graph = {module: {other for other, _ in imports(path, known) if other != module} for module, path in known.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("these files import each other in a circle: " + " -> ".join(error.args[1]))
