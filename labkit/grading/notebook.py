"""Checking a whole notebook from outside: each exercise's function in a fresh, limited process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.grading.call import Outcome
from labkit.grading.extract import defined_functions, definitions
from labkit.grading.judge import SEEDS, judge, make, not_measured
from labkit.grading.needs import missing
from labkit.grading.values import decode
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, Verdict

START_SECONDS = 60


def check_notebook(path: Path) -> list[Verdict]:
    """A verdict for every exercise of the labs that the notebook's functions belong to.

    Raises `InvalidRequest` for a file that is no notebook or holds no exercise's function.
    """
    source = definitions(path)
    functions = defined_functions(source)
    labs = {exercise.lab for exercise in all_exercises() if exercise.function in functions}
    if not labs:
        raise InvalidRequest(f"{path} defines none of the course's functions; is it a lab's notebook?")
    return [_check(exercise, source, functions) for exercise in all_exercises() if exercise.lab in labs]


def _check(exercise: Exercise, source: str, functions: set[str]) -> Verdict:
    why = missing(exercise)
    if why:
        return not_measured(exercise, why)
    if exercise.function not in functions:
        return make(exercise, NOT_ATTEMPTED, f"The notebook defines no function {exercise.function}.")
    return run_apart(exercise, source)


def run_apart(exercise: Exercise, source: str) -> Verdict:
    """Run the exercise's function from `source` in a process of its own and judge what comes back."""
    with tempfile.TemporaryDirectory(prefix="labkit-check-") as folder:
        job = Path(folder) / "job.json"
        seconds = int(exercise.seconds * len(SEEDS)) + START_SECONDS
        content = {"exercise": exercise.name, "function": exercise.function, "source": source, "seeds": list(SEEDS)}
        job.write_text(json.dumps(content | {"cpu_seconds": seconds}), "utf-8")
        command = [sys.executable, "-m", "labkit.grading.worker", str(job), folder]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            return make(exercise, FAILED, f"Your function ran for more than {seconds} seconds and was stopped.")
        if done.returncode != 0:
            return make(exercise, FAILED, f"The process with your function ended by itself (status {done.returncode}).")
        try:
            return judge(exercise, _read(Path(folder)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            return make(exercise, FAILED, f"What came back from your function could not be read: {error}")


def _read(folder: Path) -> dict[int, Sequence[Outcome]]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "tensors.safetensors")
    runs: dict[str, list[dict[str, Any]]] = json.loads((folder / "outcomes.json").read_text("utf-8"))
    found: dict[int, Sequence[Outcome]] = {}
    for seed, rows in runs.items():
        found[int(seed)] = [Outcome(**{**row, "value": decode(row["value"], tensors)}) for row in rows]
    return found
