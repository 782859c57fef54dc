"""Finds the answer to an exercise: in `labkit.answers` or, in a course copy, which has no such folder, in its answer sheet."""

from __future__ import annotations

import functools
import importlib

import torch

from labkit.environment import Machine
from labkit.errors import NotAvailable
from labkit.exercises.answer import Answer
from labkit.exercises.exercise import Exercise
from labkit.exercises.held_cases import HeldCases
from labkit.exercises.input_sketch import sketch
from labkit.exercises.registry import all_exercises
from labkit.exercises.sheet_answer import AnyAnswer, NoAnswer, SheetAnswer
from labkit.grading.answer_sheet import Row, Sheet, read_sheet
from labkit.grading.machine_needs import missing

DECIDES = "The instructor's grader decides."


def answer_to(exercise: Exercise) -> AnyAnswer:
    """The answer to an exercise of the course: an `Answer` if this copy of labkit has the answers, otherwise the exercise's row
    on the answer sheet.

    Raises `KeyError` if the exercise does not belong to the course.
    """
    answers = _answers_of(exercise.lab)
    return answers[exercise.name] if answers is not None else _from_sheet(exercise)


def has_answers() -> bool:
    """Whether this copy of labkit has its answers. A course copy has none."""
    return _answers_of(all_exercises()[0].lab) is not None


def need_answers(what: str) -> None:
    """Raise `NotAvailable` in a course copy of labkit; `what` is the work that needs the answers, such as "grade a class"."""
    if not has_answers():
        raise NotAvailable(
            f"this copy of labkit has no answers, so it cannot {what}; use the copy from which the course was released"
        )


def lacks_answer(exercise: Exercise) -> str:
    """Why this copy of labkit cannot judge the values of an exercise, as a part of a sentence; "" if it can judge them."""
    if _answers_of(exercise.lab) is not None:
        return ""
    sheet = read_sheet()
    if sheet is not None and exercise.name in sheet.rows:
        return ""
    reason = sheet.left_out.get(exercise.name, "") if sheet else ""
    return f"this copy of labkit has no answer to this exercise{reason and f' ({reason})'}"


def not_judged_here(exercise: Exercise, machine: Machine | None = None) -> str:
    """Why an exercise cannot be judged on this machine with this copy of labkit, as a part of a sentence; "" if it can be.

    The reason names a thing that the machine lacks, or says that this copy has no answer.
    """
    return missing(exercise, machine) or lacks_answer(exercise)


@functools.cache
def _answers_of(lab: str) -> dict[str, Answer] | None:
    """The answers to the exercises of a lab, by name; None in a copy of labkit, or in a sandbox, that has no answers."""
    try:
        module = importlib.import_module(f"labkit.answers.lab{lab}")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("labkit.answers"):
            raise
        return None
    return {answer.exercise.name: answer for answer in module.ANSWERS}


@functools.cache
def _from_sheet(exercise: Exercise) -> SheetAnswer | NoAnswer:
    sheet = read_sheet()
    row = sheet.rows.get(exercise.name) if sheet else None
    if sheet is None or row is None:
        why = lacks_answer(exercise)
        return NoAnswer(exercise, f"{why[0].upper()}{why[1:]}. {DECIDES}", not isinstance(exercise.cases, HeldCases))
    if isinstance(exercise.cases, HeldCases):
        exercise.cases.give(row.cases)
    if not _draws_the_same_inputs(exercise, row):
        return NoAnswer(exercise, _other_inputs(sheet))
    return SheetAnswer(exercise, row.comparison, row.values, row.names)


def _draws_the_same_inputs(exercise: Exercise, row: Row) -> bool:
    return all(sketch(exercise.cases(seed)).is_like(found) for seed, found in row.inputs.items())


def _other_inputs(sheet: Sheet) -> str:
    return (
        f"The random inputs on this machine differ from the inputs of the answer sheet (torch {torch.__version__} here, torch "
        f"{sheet.torch} "
        f"where the sheet was made), so nothing can be compared. {DECIDES}"
    )
