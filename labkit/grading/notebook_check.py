"""Checks a whole notebook file. Each function runs in a new process, with limits on time and memory."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from labkit.errors import InvalidRequest, NotAvailable
from labkit.exercises.exercise import Exercise
from labkit.exercises.held_cases import HeldCases
from labkit.exercises.registry import all_exercises
from labkit.exercises.sheet_answer import AnyAnswer, NoAnswer
from labkit.frames import unpack_frame
from labkit.grading.call import Outcome
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, inconclusive, make, not_measured, ungraded
from labkit.grading.judge_alone import judge_alone, judge_any
from labkit.grading.machine_needs import missing
from labkit.grading.notebook_folder import copy_files
from labkit.grading.run_statements import NO_DEFINITION
from labkit.grading.shorten import shorten
from labkit.grading.submission import Submission, read_submission
from labkit.grading.verdict import ERROR, FAILED, NOT_ATTEMPTED, PASSED, TIMED_OUT, Verdict
from labkit.grading.workers import Workers
from labkit.measure.busy_machine import BusyMachine
from labkit.plain_values import decode

START_SECONDS = 180
"""The time limit in seconds for the statements that the function needs.

The time limits of the calls are added to this number.
"""
MOST_TEXT_BYTES = 8 * 2**20
"""The largest accepted size, in bytes, of a worker's answers without their tensors.

As Python objects, these answers take thirty times as much memory.
"""
MOST_NOTE, MOST_NOTES = 2000, 5
"""Limits for notes on statements that did not run: the characters of a note, and the number of notes that a verdict shows."""


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
    asked = asked_of(submission, path)
    verdicts = []
    with Workers(submission.folder) as workers:
        for exercise in asked:
            if progress:
                progress(exercise)
            verdicts.append(check_submission(exercise, submission, workers))
    return verdicts


def asked_of(submission: Submission, path: Path) -> list[Exercise]:
    """All exercises of the labs to which the functions of a submission belong. Raises `InvalidRequest` if there are none."""
    if labs := labs_of(submission):
        return [exercise for exercise in all_exercises() if exercise.lab in labs]
    problem = f" ({shorten(submission.notes[0])})" if submission.notes else ""
    raise InvalidRequest(f"{path} defines none of the functions of the course; give a notebook of one of its labs{problem}")


def labs_of(submission: Submission) -> dict[str, int]:
    """The labs to which the functions of a submission belong, each with the number of its functions that were found.

    The search begins with the names of definitions, because a variable may happen to have the name of another lab's function.
    """
    for found in (submission.functions, submission.names, submission.asked):
        labs = Counter(exercise.lab for exercise in all_exercises() if exercise.function in found)
        if labs:
            return dict(labs)
    return {}


def check_submission(
    exercise: Exercise, submission: Submission, workers: Workers | None = None, seeds: Sequence[int] = SEEDS
) -> Verdict:
    """The verdict on one exercise of a submission. If `workers` is None, a worker is started for this check alone."""
    why = missing(exercise)
    if why:
        return not_measured(exercise, why)
    is_there = exercise.function in submission.names
    if not is_there and not submission.binds_anything:
        return make(exercise, NOT_ATTEMPTED, submission.why_missing(exercise.function))
    verdict = run_apart(exercise, submission, workers, seeds)
    if not is_there and NO_DEFINITION in verdict.message:
        return make(exercise, NOT_ATTEMPTED, submission.why_missing(exercise.function))
    return verdict


def run_apart(
    exercise: Exercise, submission: Submission, workers: Workers | None = None, seeds: Sequence[int] = SEEDS
) -> Verdict:
    """Run the exercise's function, and the statements that it needs, in a separate process, and judge the outcomes.

    The output of that process is discarded. When the process ends, the processes that it started are ended too.
    """
    if workers is None:
        with Workers(submission.folder) as workers:
            return run_apart(exercise, submission, workers, seeds)
    answer = answer_to(exercise)
    if isinstance(answer, NoAnswer) and not answer.has_inputs:
        return judge_alone(answer, {})
    with tempfile.TemporaryDirectory(dir=workers.jobs, ignore_cleanup_errors=True) as folder:
        files = Path(folder) / "files"
        copy_files(submission.folder, files)
        job = Path(folder) / "job.json"
        seconds = int(exercise.seconds * len(seeds)) + START_SECONDS
        job.write_text(json.dumps(_job(exercise, submission, seeds) | {"cpu_seconds": seconds, "files": str(files)}), "utf-8")
        with BusyMachine() as machine:
            end = workers.run(job, files, seconds, exercise.needs)
    if not end.has_run:
        return ungraded(exercise, "; ".join(filter(None, [end.problem, machine.words])))
    if machine.words:
        return inconclusive(exercise, machine.words)
    if end.problem:
        return make(exercise, FAILED, end.problem, cause=TIMED_OUT if end.status is None else ERROR)
    if end.status != 0 or not end.written:
        message = f"The process with your function ended before your function answered (status {end.status})."
        return make(exercise, FAILED, message, cause=ERROR)
    try:
        return judge_frame(answer, end.written, seeds)
    except NotAvailable as error:
        return ungraded(exercise, str(error))


def _job(exercise: Exercise, submission: Submission, seeds: Sequence[int]) -> dict[str, Any]:
    held = exercise.cases if isinstance(exercise.cases, HeldCases) else None
    return {
        "exercise": exercise.name,
        "function": exercise.function,
        "pieces": [astuple(piece) for piece in submission.needed_for(exercise.function)],
        "folder": str(submission.folder) if submission.folder else None,
        "seeds": list(seeds),
        "cases": {seed: held.written(seed) for seed in seeds} if held else {},
        "seconds": exercise.seconds,
    }


def judge_frame(answer: AnyAnswer, written: bytes, seeds: Sequence[int] = SEEDS) -> Verdict:
    """The verdict on the frame that a worker wrote. Its bytes are not trusted, because a learner's code ran in the worker."""
    try:
        text, data = unpack_frame(written)
        if len(text) > MOST_TEXT_BYTES:
            raise ValueError(f"its numbers and texts take more than {MOST_TEXT_BYTES // 2**20} MiB")
        found = json.loads(text)
        tensors = load(data)
        runs = {int(seed): [_outcome(row, tensors) for row in rows] for seed, rows in found["runs"].items()}
        if set(runs) != set(seeds) and not any(outcome.error for outcomes in runs.values() for outcome in outcomes):
            raise ValueError("the process returned no answers to some inputs")
        if not set(runs) <= set(seeds):
            raise ValueError("the process returned answers to inputs that it was not given")
        return _with_notes(judge_any(answer, runs), found["notes"])
    except NotAvailable:  # this machine cannot compute the right answers, which is not the learner's fault
        raise
    except Exception as error:
        message = f"The answers of your function could not be read: {shorten(repr(error))}"
        return make(answer.exercise, FAILED, message, cause=ERROR)


def _with_notes(verdict: Verdict, notes: Any) -> Verdict:
    """Return the verdict. Unless it is a pass, add notes on statements that did not run. The notes may have any content."""
    if verdict.verdict == PASSED or not isinstance(notes, list):
        return verdict
    words = [shorten(" ".join(str(note)[:MOST_NOTE].split())) for note in notes[:MOST_NOTES]]
    return replace(verdict, details="\n".join([*verdict.details.splitlines(), *(f"note: {note}" for note in words)]))


def _outcome(row: dict[str, Any], tensors: dict[str, Tensor]) -> Outcome:
    words = {name: row[name] for name in ("error", "error_kind", "changed", "breach", "clue", "busy")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ValueError("the error of an outcome is not a string")
    return Outcome(decode(row["value"], tensors), **words)
