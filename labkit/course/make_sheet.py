"""Makes an answer sheet: the right values for the public seeds, as JSON and safetensors (see `labkit.grading.answer_sheet`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import labkit
from labkit.errors import LabkitError, NotAvailable
from labkit.exercises.answer import Answer
from labkit.exercises.exercise import Exercise
from labkit.exercises.held_cases import HeldCases
from labkit.exercises.input_sketch import sketch
from labkit.grading.answer_sheet import COMPARISONS, FORMAT, JSON_FILE, VALUES_FILE
from labkit.grading.find_answer import answer_to, need_answers
from labkit.grading.judge import SEEDS
from labkit.measure.busy_machine import BusyMachine
from labkit.plain_values import decode, encode


@dataclass(frozen=True)
class MadeSheet:
    """The result of `make_sheet`: the number of exercises, the size in bytes, and why each missing exercise was left out."""

    exercises: int
    size: int
    left_out: dict[str, str]


class _LeftOutError(Exception):
    """The values of an exercise cannot be stored on the sheet. The message is the reason, as a part of a sentence."""


def make_sheet(
    exercises: Sequence[Exercise], folder: Path, checks: str, progress: Callable[[Exercise], object] | None = None
) -> MadeSheet:
    """Write the sheet of these exercises into a new folder. `checks` is the version of the course's checks.

    The references are run, so some exercises need the Triton server. An exercise is left out if its reference needs something
    that this machine lacks, if its comparison is not in `COMPARISONS`, or if its values are not plain values
    (`labkit.plain_values`). Raises `NotAvailable` if this copy of labkit has no answers, and `LabkitError` if the machine was
    busy while a reference with a time limit ran.
    """
    need_answers("make an answer sheet")
    tensors: dict[str, Tensor] = {}
    rows: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for exercise in exercises:
        if progress:
            progress(exercise)
        before = list(tensors)
        try:
            rows[exercise.name] = _row(exercise, tensors)
        except _LeftOutError as error:
            left_out[exercise.name] = str(error)
            tensors = {key: tensors[key] for key in before}
    found = {"format": FORMAT, "labkit": labkit.__version__, "checks": checks, "torch": torch.__version__}
    text = json.dumps(found | {"left_out": left_out, "exercises": rows}, ensure_ascii=False)
    folder.mkdir(parents=True)
    (folder / JSON_FILE).write_text(text + "\n", "utf-8")
    save_file(tensors, folder / VALUES_FILE)
    (folder / VALUES_FILE).chmod(0o644)  # safetensors makes a file that only its owner can read
    return MadeSheet(len(rows), sum(path.stat().st_size for path in folder.iterdir()), left_out)


def _row(exercise: Exercise, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The sheet's row for an exercise; the row's tensors are added to `tensors`. Raises `_LeftOutError`."""
    answer = answer_to(exercise)
    assert isinstance(answer, Answer)  # make_sheet needs the answers
    kind = type(answer.comparison).__name__
    if COMPARISONS.get(kind) is not type(answer.comparison):
        raise _LeftOutError("its comparison is code")
    values = {seed: _values(answer, seed) for seed in SEEDS}
    coded = {seed: [encode(value, tensors) for value in found] for seed, found in values.items()}
    for seed, found in values.items():
        if any(
            answer.comparison.difference(right, decode(one, tensors)) for right, one in zip(found, coded[seed], strict=True)
        ):
            raise _LeftOutError("its values are not numbers, texts or tensors")
    cases = exercise.cases
    sketches = {seed: sketch(cases(seed)) for seed in SEEDS}
    return {
        "comparison": {"kind": kind, "relative": answer.comparison.relative},
        "names": dict(answer.names),
        "values": coded,
        "inputs": {seed: {"plain": one.plain, "sums": one.sums} for seed, one in sketches.items()},
        "cases": {seed: cases.written(seed) for seed in SEEDS} if isinstance(cases, HeldCases) else {},
    }


def _values(answer: Answer, seed: int) -> list[Any]:
    with BusyMachine() as machine:
        try:
            found = answer.expected(seed)
        except NotAvailable as error:
            raise _LeftOutError(f"the machine that made the answer sheet could not run it: {error}") from error
    if machine.words:
        raise LabkitError(f"the answer to {answer.exercise.name} ran out of time: {machine.words}; try again")
    return found
