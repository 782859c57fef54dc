"""Checking a whole notebook from outside: each exercise's function in a fresh, limited process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.grading.call import Outcome
from labkit.grading.extract import defined_functions, definitions
from labkit.grading.judge import SEEDS, judge, make, not_measured
from labkit.grading.needs import missing
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, Verdict
from labkit.plain_values import decode

START_SECONDS = 60
MOST_BYTES = 64 * 2**20
"""The most that is read of a file that came out of a learner's process."""


def check_notebook(path: Path, progress: Callable[[Exercise], object] | None = None) -> list[Verdict]:
    """A verdict for every exercise of the labs that the notebook's functions belong to; `progress` is told of each before.

    Raises `InvalidRequest` for a file that is no notebook or holds no exercise's function.
    """
    source = definitions(path)
    functions = defined_functions(source)
    labs = {exercise.lab for exercise in all_exercises() if exercise.function in functions}
    if not labs:
        raise InvalidRequest(f"{path} defines none of the course's functions; is it a lab's notebook?")
    verdicts = []
    for exercise in all_exercises():
        if exercise.lab in labs:
            if progress:
                progress(exercise)
            verdicts.append(_check(exercise, source, functions))
    return verdicts


def _check(exercise: Exercise, source: str, functions: set[str]) -> Verdict:
    why = missing(exercise)
    if why:
        return not_measured(exercise, why)
    if exercise.function not in functions:
        return make(exercise, NOT_ATTEMPTED, f"The notebook defines no function {exercise.function}.")
    return run_apart(exercise, source)


def run_apart(exercise: Exercise, source: str) -> Verdict:
    """Run the exercise's function from `source` in a process of its own and judge what comes back.

    What that process prints is thrown away; whatever it started ends with it.
    """
    with tempfile.TemporaryDirectory(prefix="labkit-check-") as folder:
        job = Path(folder) / "job.json"
        seconds = int(exercise.seconds * len(SEEDS)) + START_SECONDS
        content = {"exercise": exercise.name, "function": exercise.function, "source": source, "seeds": list(SEEDS)}
        job.write_text(json.dumps(content | {"seconds": exercise.seconds, "cpu_seconds": seconds}), "utf-8")
        status = _run([sys.executable, "-m", "labkit.grading.worker", str(job), folder], folder, seconds)
        if status is None:
            return make(exercise, FAILED, f"Your function ran for more than {seconds} seconds and was stopped.")
        if status != 0 or not (Path(folder) / "outcomes.json").exists():
            message = f"The process with your function ended before your function answered (status {status})."
            return make(exercise, FAILED, message)
        return judge_files(exercise, Path(folder))


def _run(command: list[str], folder: str, seconds: float) -> int | None:
    """The exit status of a command, or None when its time was over; processes that it left behind are ended."""
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def judge_files(exercise: Exercise, folder: Path) -> Verdict:
    """The verdict on the files that a worker wrote; they may hold anything, since a learner's code ran in that process."""
    try:
        runs = _read(folder)
        if set(runs) != set(SEEDS) and not any(outcome.error for outcomes in runs.values() for outcome in outcomes):
            raise ValueError("answers to some inputs are missing")
        return judge(exercise, runs)
    except Exception as error:
        return make(exercise, FAILED, f"What came back from your function could not be read: {error!r}")


def _read(folder: Path) -> dict[int, Sequence[Outcome]]:
    paths = folder / "tensors.safetensors", folder / "outcomes.json"
    for path in paths:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.name} is no file of at most {MOST_BYTES // 2**20} MiB")
    tensors = load_file(paths[0])
    runs: dict[str, list[dict[str, Any]]] = json.loads(paths[1].read_text("utf-8"))
    return {int(seed): [_outcome(row, tensors) for row in rows] for seed, rows in runs.items()}


def _outcome(row: dict[str, Any], tensors: dict[str, Tensor]) -> Outcome:
    words = {name: row[name] for name in ("error", "error_kind", "changed", "breach")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ValueError("an outcome's error is no text")
    return Outcome(decode(row["value"], tensors), **words)
