"""Without TensorRT, the TensorRT module does not import it, says what is missing, and checks its settings."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.errors import NotAvailable
from labkit.graphs.exported import ExportedModel
from labkit.graphs.tensorrt import PlanSettings, TensorRTPart, build_plan
from tests.refusals import refused


def test_importing_the_module_imports_no_tensorrt() -> None:
    script = "import sys, labkit.graphs.tensorrt; assert 'tensorrt' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_tensorrt_one_sentence_says_so(in_parts: ExportedModel, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("not measured here: TensorRT is installed, so nothing is missing")
    with pytest.raises(NotAvailable, match="not measured here: the package tensorrt is not installed"):
        build_plan(in_parts.parts[0], tmp_path / "model.plan", PlanSettings())
    with pytest.raises(NotAvailable, match="not measured here: the package tensorrt is not installed"):
        TensorRTPart(tmp_path / "model.plan")
    assert not (tmp_path / "model.plan").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": (0, 1, 2)}, ["batch is (0, 1, 2)", "at least 1"]),
        ({"tokens": (1, 9, 8)}, ["tokens is (1, 9, 8)"]),
        ({"past": (-1, 0, 1)}, ["past is (-1, 0, 1)", "at least 0"]),
    ],
)
def test_sizes_out_of_order(settings: dict[str, tuple[int, int, int]], words: list[str]) -> None:
    with refused(words):
        PlanSettings(**settings)
