"""Imports go in one direction: a part of labkit imports only parts below it, and no two files import each other.

Imports inside functions and imports that are only for type checking count too.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOORS = [
    "bits_per_weight cgroups errors extras forked json_file locked_folder plain_values plurals sampling_vocabulary time_limits",
    "frames home host_cores host_memory precision config torch_state weight_formats",
    "environment tokenizer native",
    "measure launch",
    "checkpoints",
    "ops",
    "model",
    "engine",
    "compress",
    "planning",
    "parallel graphs",
    "__init__",
    "builtin bench",
    "serving",
    "exercises",
    "answers",
    "grading",
    "lab gradebook course",
    "session",
    "cli",
    "__main__",
]
"""The parts of labkit from the ground up. The parts on a line may import the parts on earlier lines, but not each other."""

SERVING_FLOORS = [
    "__init__ error_kind in_flight malloc nearest_name probe_mark refusals user_folder",
    "access shared_folder",
    "channels",
    "metrics",
    "repository",
    "server client",
    "stress python_backend",
]
"""The files and subpackages of labkit.serving from the ground up, in the form of `FLOORS`."""

HOUSES = {"labkit": FLOORS, "labkit.serving": SERVING_FLOORS}
"""The packages whose parts are assigned to floors."""


def modules() -> dict[str, Path]:
    """Every module of labkit by its dotted name. The module of a package is the `__init__.py` in its folder."""
    found = {}
    for path in sorted((ROOT / "labkit").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """The modules of labkit that a file imports anywhere, each with the line of the import."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((each.name, node.lineno) for each in node.names if each.name.split(".")[0] == "labkit")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "labkit":
            assert node.module is not None
            for each in node.names:
                name = f"{node.module}.{each.name}"
                yield (name if name in known else node.module), node.lineno


def part(module: str, house: str) -> str:
    """The part of a package to which a module belongs: a folder or a file of the package, or its `__init__`."""
    return module.removeprefix(house).removeprefix(".").split(".")[0] or "__init__"


def is_in(module: str, house: str) -> bool:
    """Whether a module belongs to a package."""
    return module == house or module.startswith(f"{house}.")


@pytest.mark.parametrize("house", HOUSES)
def test_every_part_has_a_floor(house: str) -> None:
    named = [name for floor in HOUSES[house] for name in floor.split()]
    assert sorted(named) == sorted({part(module, house) for module in modules() if is_in(module, house)})


@pytest.mark.parametrize("house", HOUSES)
def test_arrows_run_down(house: str) -> None:
    floor = {name: number for number, names in enumerate(HOUSES[house]) for name in names.split()}
    known = modules()
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for module, path in known.items()
        if is_in(module, house)
        for other, line in imports(path, known)
        if is_in(other, house)
        and part(module, house) != part(other, house)
        and floor[part(other, house)] >= floor[part(module, house)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_import_each_other() -> None:
    known = modules()
    graph = {module: {other for other, _ in imports(path, known) if other != module} for module, path in known.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("these files import each other in a circle: " + " -> ".join(error.args[1]))


ENGINE_FILES_FOR_SCHEDULE = ["bad_text_automaton", "engine_stats", "outputs", "sampling_params", "stop_words", "text_stream"]
"""The modules of `engine/` that `engine/schedule/` may import: descriptions of requests and events, nothing that runs."""


def test_the_schedule_knows_no_tensors_and_no_model() -> None:
    """The scheduler plans with numbers only. The scheduler's files do not import torch. From labkit, they import only each
    other and a few parts.
    """
    known = modules()
    allowed = {"labkit.errors", *(f"labkit.engine.{name}" for name in ENGINE_FILES_FOR_SCHEDULE)}
    wrong = []
    for module, path in known.items():
        if not module.startswith("labkit.engine.schedule"):
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports {other}"
            for other, line in imports(path, known)
            if other not in allowed and not other.startswith("labkit.engine.schedule.")
        ]
        wrong += [f"{path.relative_to(ROOT)} imports torch" for name in outside_imports(path) if name == "torch"]
    assert not wrong, "\n".join(wrong)


def test_beam_search_is_used_by_the_step_loop_alone() -> None:
    known = modules()
    users = {
        module
        for module, path in known.items()
        for other, _ in imports(path, known)
        if other.startswith("labkit.engine.beams") and not module.startswith("labkit.engine.beams")
    }
    assert users == {"labkit.engine.step_loop"}


def outside_imports(path: Path) -> Iterator[str]:
    """The top-level names of all imports of a file, including those inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def test_modules_that_contracts_name_exist() -> None:
    """If a prefix named a module that has moved, a learner's call of labkit would count as the learner's own work."""
    from labkit.exercises.contracts import torch_guard

    assert [name for name in torch_guard._OWN if name not in modules()] == []
    quantized = importlib.import_module("labkit.weight_formats").Int8Weight
    assert quantized.__module__.startswith(torch_guard._OWN)
