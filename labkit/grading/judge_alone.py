"""Judges a function in a copy of labkit that may have no answer to the exercise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.exercises.sheet_answer import AnyAnswer, NoAnswer
from labkit.grading.call import NOT_ATTEMPTED, Outcome, decided
from labkit.grading.judge import cause_of, details_of, error_sentence, inconclusive, judge, make, untouched
from labkit.grading.verdict import FAILED, NO_ANSWER, NOT_MEASURED, Verdict
from labkit.plurals import counted


def judge_any(answer: AnyAnswer, runs: Mapping[int, Sequence[Outcome]]) -> Verdict:
    """The verdict of `judge` if there is an answer, otherwise the verdict of `judge_alone`."""
    return judge_alone(answer, runs) if isinstance(answer, NoAnswer) else judge(answer, runs)


def judge_alone(answer: NoAnswer, runs: Mapping[int, Sequence[Outcome]]) -> Verdict:
    """The verdict on outcomes if there are no right values to compare them with. The verdict is a fail if a call raised an
    error or broke a rule of the exercise. Otherwise it is "not measured here", with the reason.
    """
    exercise = answer.exercise
    for seed, outcomes in runs.items():
        for case, outcome in zip(exercise.cases(seed), outcomes, strict=False):
            details = details_of(exercise, case, outcome)
            if outcome.error_kind == NOT_ATTEMPTED:
                return untouched(exercise)
            if outcome.error and outcome.busy:
                return inconclusive(exercise, outcome.busy, details)
            if outcome.error:
                return make(exercise, FAILED, error_sentence(outcome.error, outcome.clue), details, cause_of(outcome))
            if wrong := decided(exercise, outcome.value):
                return make(exercise, FAILED, wrong, details)
            if outcome.changed:
                return make(exercise, FAILED, f"Your function changes its {outcome.changed}; work on a copy.", details)
            if outcome.breach:
                return make(exercise, FAILED, f"Your function breaks a rule of the exercise: {outcome.breach}.", details)
    count = counted(sum(map(len, runs.values())), "input")
    ran = f"Your function gives an answer to {count} without an error. " if runs else ""
    return make(exercise, NOT_MEASURED, ran + answer.why, cause=NO_ANSWER)
