"""A notebook's set-up cell works with imports from `labkit.lab` and with the imports that were used before `labkit.lab`
existed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.exercises.registry import all_exercises
from labkit.grading.notebook_check import check_submission
from labkit.grading.submission import read_submission
from labkit.grading.verdict import PASSED
from tests.patience import PATIENCE

DOOR = "from labkit.lab import check, hint, passed, predicted, progress_panel"
BEFORE = "from labkit.grading import check, hint, passed, predicted, progress_panel"
WITH_KERNELS = {
    DOOR: "from labkit.lab import kernel_device, tl, triton",
    BEFORE: "from labkit.exercises.kernels import kernel_device, tl, triton",
}
ANSWER = """
def kv_cache_bytes(config, lengths, element_bytes):
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes
"""


def run(code: str, home: Path) -> str:
    """The output of a new Python process that runs this code."""
    environment = {"LABKIT_HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("set_up", [DOOR, BEFORE])
def test_set_up_cell_checks_an_answer_and_loads_no_triton(set_up: str, tmp_path: Path) -> None:
    said = run(f"import sys\n{set_up}\n{ANSWER}\ncheck(kv_cache_bytes)\nprint('triton' in sys.modules)", tmp_path)
    assert said.startswith("✓ 0.3")
    assert said.splitlines()[-1] == "False"


def test_triton_of_the_door_is_that_of_the_exercises(tmp_path: Path) -> None:
    code = (
        "from labkit.lab import kernel_device, tl, triton\nfrom labkit.exercises import kernels\n"
        "print(tl is kernels.tl, triton is kernels.triton, kernel_device().type)"
    )
    assert run(code, tmp_path).split()[:2] == ["True", "True"]


@pytest.mark.parametrize("set_up", [DOOR, BEFORE])
def test_a_notebook_checked_from_outside_keeps_nothing(set_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    cells = [
        f"{set_up}\n{WITH_KERNELS[set_up]}\nprogress_panel('00')",
        ANSWER + "\nverdict = check(kv_cache_bytes)\nhint(kv_cache_bytes)\n",
        "right = kv_cache_bytes\ndef kv_cache_bytes(*given):\n    return right(*given) if verdict.points == 10 else 0",
    ]
    notebook = tmp_path / "lab.ipynb"
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source} for source in cells]}))
    asked = next(exercise for exercise in all_exercises() if exercise.function == "kv_cache_bytes")
    found = check_submission(asked, read_submission(notebook))
    assert found.verdict == PASSED, str(found)
    assert not list((tmp_path / "home").glob("*"))
