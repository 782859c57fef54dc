"""Checks a whole notebook file. Each function runs in a new process, with limits on time and memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file
from torch import Tensor

from labkit.answers.answer import Answer
from labkit.answers.registry import answer_to
from labkit.errors import InvalidRequest
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.grading.call import Outcome
from labkit.grading.judge import SEEDS, inconclusive, judge, make, not_measured
from labkit.grading.machine_needs import missing
from labkit.grading.notebook_folder import copy_files
from labkit.grading.run_statements import NO_DEFINITION
from labkit.grading.shorten import shorten
from labkit.grading.submission import Submission, read_submission
from labkit.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PASSED, TIMED_OUT, Verdict
from labkit.measure.busy_machine import BusyMachine
from labkit.measure.memory import processes
from labkit.plain_values import decode
from labkit.time_limits import limit_passed

START_SECONDS = 180
"""Seconds for starting Python and running the statements that the function needs.

The time limits of the calls are added to this.
"""
MOST_BYTES = 64 * 2**20
"""The size of the largest file that is read from a learner's process."""
MOST_NOTE_BYTES, MOST_NOTES = 64 * 2**10, 5
"""Two limits for notes on statements that did not run: the size of the file of notes, and the number of notes that a verdict
shows.
"""


def check_notebook(
    path: Path, progress: Callable[[Exercise], object] | None = None, say: Callable[[str], object] | None = None
) -> list[Verdict]:
    """A verdict for every exercise of the notebook's labs. A lab is included if the notebook defines one of its functions.

    `progress` is called with each exercise before it runs, and `say` with a sentence about each cell that is left out. Raises
    `InvalidRequest` if the file is not a notebook, or defines no function of an exercise.
    """
    submission = read_submission(path)
    if say:
        for note in submission.notes:
            say(note)
    verdicts = []
    for exercise in asked_of(submission, path):
        if progress:
            progress(exercise)
        verdicts.append(check_submission(exercise, submission))
    return verdicts


def asked_of(submission: Submission, path: Path) -> list[Exercise]:
    """All exercises of the labs to which the functions of a submission belong. Raises `InvalidRequest` if there are none."""
    if labs := labs_of(submission):
        return [exercise for exercise in all_exercises() if exercise.lab in labs]
    problem = f" ({shorten(submission.notes[0])})" if submission.notes else ""
    raise InvalidRequest(f"{path} defines none of the functions of the course; give a notebook of one of its labs{problem}")


def labs_of(submission: Submission) -> dict[str, int]:
    """The labs to which the functions of a submission belong, each with the number of its functions that were found.

    Definitions are tried first, because a variable may happen to have the name of another lab's function.
    """
    for found in (submission.functions, submission.names, submission.asked):
        labs = Counter(exercise.lab for exercise in all_exercises() if exercise.function in found)
        if labs:
            return dict(labs)
    return {}


def check_submission(exercise: Exercise, submission: Submission) -> Verdict:
    """The verdict on one exercise of a submission."""
    why = missing(exercise)
    if why:
        return not_measured(exercise, why)
    is_there = exercise.function in submission.names
    if not is_there and not submission.binds_anything:
        return make(exercise, NOT_ATTEMPTED, submission.why_missing(exercise.function))
    verdict = run_apart(exercise, submission)
    if not is_there and NO_DEFINITION in verdict.message:
        return make(exercise, NOT_ATTEMPTED, submission.why_missing(exercise.function))
    return verdict


def run_apart(exercise: Exercise, submission: Submission) -> Verdict:
    """Run the exercise's function, and the statements that it needs, in a separate process, and judge the outcomes.

    The output of that process is discarded. When the process ends, the processes that it started are ended too.
    """
    with tempfile.TemporaryDirectory(prefix="labkit-check-") as folder:
        files = Path(folder) / "files"
        copy_files(submission.folder, files)
        job = Path(folder) / "job.json"
        seconds = int(exercise.seconds * len(SEEDS)) + START_SECONDS
        job.write_text(json.dumps(_job(exercise, submission) | {"cpu_seconds": seconds}), "utf-8")
        with BusyMachine() as machine:
            status = _run([sys.executable, "-BPm", "labkit.grading.worker", str(job), folder], str(files), seconds)
        if machine.words:
            return inconclusive(exercise, machine.words)
        if status is None:
            message = f"Your function ran for more than {seconds} seconds and was stopped."
            return make(exercise, FAILED, message, cause=TIMED_OUT)
        if status != 0 or not (Path(folder) / "outcomes.json").exists():
            message = f"The process with your function ended before your function answered (status {status})."
            return make(exercise, FAILED, message, cause=ERROR)
        return _with_notes(judge_files(answer_to(exercise), Path(folder)), Path(folder))


def _job(exercise: Exercise, submission: Submission) -> dict[str, Any]:
    return {
        "exercise": exercise.name,
        "function": exercise.function,
        "pieces": [astuple(piece) for piece in submission.needed_for(exercise.function)],
        "folder": str(submission.folder) if submission.folder else None,
        "seeds": list(SEEDS),
        "seconds": exercise.seconds,
    }


def _with_notes(verdict: Verdict, folder: Path) -> Verdict:
    """The verdict. If it is not a pass, it gets notes on statements that did not run. The notes may have any content."""
    path = folder / "notes.json"
    try:
        if verdict.verdict == PASSED or path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_NOTE_BYTES:
            return verdict
        notes = [shorten(" ".join(str(note).split())) for note in json.loads(path.read_text("utf-8"))][:MOST_NOTES]
    except (OSError, ValueError, TypeError, RecursionError):
        return verdict
    return replace(verdict, details="\n".join([*verdict.details.splitlines(), *(f"note: {note}" for note in notes)]))


def _run(command: list[str], folder: str, seconds: float) -> int | None:
    """Run a command and return its exit status, or None if its time ran out.

    At the end, the processes of its session are ended. If its time ran out, all of its descendants are ended.
    """
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    # `process.wait(timeout=...)` wakes 20 times per second, and each time it may wait for a core. This thread sleeps instead.
    waiting = threading.Thread(target=process.wait, daemon=True)
    try:
        waiting.start()
        waiting.join(seconds)
        if not waiting.is_alive():
            return process.returncode
        limit_passed(f"your function did not finish within {seconds:g} seconds")
        for descendant in processes(process.pid):
            with contextlib.suppress(psutil.Error):
                descendant.kill()
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def judge_files(answer: Answer, folder: Path) -> Verdict:
    """The verdict on the files of a worker. The files may have any content, because a learner's code ran in the worker's
    process.
    """
    try:
        runs = _read(folder)
        if set(runs) != set(SEEDS) and not any(outcome.error for outcomes in runs.values() for outcome in outcomes):
            raise ValueError("the process returned no answers to some inputs")
        return judge(answer, runs)
    except Exception as error:
        message = f"The answers of your function could not be read: {shorten(repr(error))}"
        return make(answer.exercise, FAILED, message, cause=ERROR)


def _read(folder: Path) -> dict[int, Sequence[Outcome]]:
    paths = folder / "tensors.safetensors", folder / "outcomes.json"
    for path in paths:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.name} is not a file of at most {MOST_BYTES // 2**20} MiB")
    tensors = load_file(paths[0])
    runs: dict[str, list[dict[str, Any]]] = json.loads(paths[1].read_text("utf-8"))
    return {int(seed): [_outcome(row, tensors) for row in rows] for seed, rows in runs.items()}


def _outcome(row: dict[str, Any], tensors: dict[str, Tensor]) -> Outcome:
    words = {name: row[name] for name in ("error", "error_kind", "changed", "breach", "clue", "busy")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ValueError("the error of an outcome is not a text")
    return Outcome(decode(row["value"], tensors), **words)
