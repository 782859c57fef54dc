"""Whenever labkit creates a tensor, it states the dtype and the device, so torch's process-wide defaults have no effect."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "labkit"
FOLDERS = ("checkpoints", "compress", "engine", "native", "ops", "parallel", "serving")
MAKERS = {
    *("arange", "as_tensor", "asarray", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand"),
    *("randint", "randn", "randperm", "range", "scalar_tensor", "tensor", "zeros"),
}
"""torch's functions whose dtype, device or both depend on `torch.set_default_dtype` and `torch.set_default_device`."""


def undecided(source: str) -> list[str]:
    """The calls of `MAKERS` in a source file that leave the dtype or the device to torch's defaults."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in MAKERS:
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "torch":
            continue
        missing = {"dtype", "device"} - {keyword.arg for keyword in node.keywords}
        if missing:
            found.append(f"line {node.lineno}: torch.{node.func.attr} without {' and '.join(sorted(missing))}")
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_tensor_states_dtype_and_device(folder: str) -> None:
    paths = sorted((PACKAGE / folder).rglob("*.py"))
    assert paths
    faults = [f"{path.relative_to(PACKAGE)} {fault}" for path in paths for fault in undecided(path.read_text("utf-8"))]
    assert not faults, "\n".join(faults)


def test_the_search_finds_what_is_left_open() -> None:
    source = "import torch\ntorch.empty(2)\ntorch.zeros(2, dtype=d, device=e)\nx.new_empty(2)\ntorch.arange(3, device=e)\n"
    assert undecided(source) == ["line 2: torch.empty without device and dtype", "line 5: torch.arange without dtype"]
