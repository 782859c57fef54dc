"""Runs an untrusted function of a learner in a separate process.

The worker reads a JSON job, limits its own resources and runs the statements of the notebook that the function needs. Then it
calls the function with the cases of the exercise, and writes the outcomes as one frame of JSON and safetensors to a pipe. The
worker compares nothing and has no answers; the verdict is made in another process. `labkit.grading.worker_host` starts workers.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from labkit.exercises.held_cases import HeldCases
from labkit.exercises.registry import exercise as find
from labkit.frames import pack_frame
from labkit.grading.call import Outcome, run_seeds
from labkit.grading.ipython_stand_in import Shell
from labkit.grading.notebook_folder import find_modules
from labkit.grading.progress import Progress
from labkit.grading.run_statements import NO_DEFINITION, define
from labkit.grading.submission import Piece
from labkit.measure.busy_machine import BusyMachine
from labkit.plain_values import encode

MEMORY_BYTES = 8 * 2**30
FILE_BYTES = 256 * 2**20


def limit(cpu_seconds: int) -> None:
    """Limit this process's CPU time, data memory, file size and core dumps."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def row_of(outcome: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """An outcome as a JSON dictionary.

    Its tensors are added to `tensors`. If a value cannot be stored, the row contains an error message instead.
    """
    words = {name: getattr(outcome, name) for name in ("error", "error_kind", "changed", "breach", "clue", "busy")}
    row: dict[str, Any] = {"value": encode(None, {}), **words}
    try:
        return row | {"value": encode(outcome.value, tensors)}
    except Exception as error:
        return row | {"error": f"its answer cannot be read: {type(error).__name__}", "error_kind": type(error).__name__}


def notebook_scope(folder: Path | None) -> tuple[dict[str, Any], Shell]:
    """The names that a notebook has at its start, in a new module `__main__`, and the replacement for IPython.

    From then on, `display` shows nothing in this process, and labkit's `check` and `hint` record nothing.
    """
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main  # dataclasses, for example, look up the module of a class in sys.modules.
    shell = Shell(main.__dict__, folder)
    setattr(builtins, "get_ipython", lambda: shell)  # noqa: B010
    setattr(builtins, "display", _nothing)  # noqa: B010
    Progress.is_kept = False
    find_modules(folder)
    return main.__dict__, shell


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


def outcomes_of(job: dict[str, Any]) -> tuple[dict[int, list[Outcome]], list[str]]:
    """The outcomes of the learner's function for each seed, and notes on needed statements that did not run."""
    exercise = replace(find(job["exercise"]), seconds=job["seconds"])
    if isinstance(exercise.cases, HeldCases):
        exercise.cases.give({int(seed): written for seed, written in job["cases"].items()})
    name, folder = job["function"], job["folder"]
    scope, shell = notebook_scope(Path(folder) if folder else None)
    with BusyMachine() as machine:
        failed = define([Piece(*row) for row in job["pieces"]], scope)
    if name in scope:
        runs = run_seeds(scope[name], exercise, job["seeds"])
    else:
        why = next((failure.error for failure in reversed(failed) if name in failure.names), "no statement defines this name")
        outcome = Outcome(error=f"{NO_DEFINITION}: {why}", error_kind="Definition", busy=machine.words)
        runs = {job["seeds"][0]: [outcome]}
    return runs, [*map(str, failed), *shell.notes]


def work(job_file: Path, out: int) -> None:
    """Run the job in a file, and write a frame to the file descriptor `out`: `{"runs": outcomes by seed, "notes": texts}`, and
    the tensors.

    A job is a dictionary `{exercise, function, pieces, folder, files, seeds, cases, seconds, cpu_seconds}`. `seconds` is the
    time limit of one call, `pieces` comes from `Submission.needed_for`, and `folder` is the notebook's folder, from which
    modules can be imported. `files` is a folder with files for the learner's code, which are copied to the current folder.
    `cases` are the cases of a `HeldCases`, by seed.
    """
    job = json.loads(job_file.read_text("utf-8"))
    limit(job["cpu_seconds"])
    if Path(job["files"]) != Path.cwd():
        shutil.copytree(job["files"], ".", dirs_exist_ok=True)
    runs, notes = outcomes_of(job)
    tensors: dict[str, Any] = {}
    rows = {seed: [row_of(outcome, tensors) for outcome in outcomes] for seed, outcomes in runs.items()}
    with os.fdopen(out, "wb") as pipe:
        pipe.write(pack_frame(json.dumps({"runs": rows, "notes": notes}).encode(), save(tensors)))
