"""Every exercise: an unsolved stub gets a message that it is unsolved, the reference passes, and each planted mistake gets its
own message.
"""

from __future__ import annotations

from typing import Any

import pytest

from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.grading import judge as judge_module
from labkit.grading.call import run_cases
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, PASSED, Verdict
from labkit.serving.server.install import find_server
from tests.patience import first_good
from tests.sampled import as_long

EXERCISES = {exercise.name: exercise for exercise in all_exercises()}
OTHER_SEEDS = (5, 600)
RIGHT: dict[tuple[str, int], list[Any]] = {}
"""The right answers of an exercise to the inputs of a seed."""
REAL_PROCESSES = ("03", "04")
"""Labs whose checks take seconds. Mistakes in these labs are tested with only one set of seeds."""


def is_long(exercise: Exercise, index: int, seeds: tuple[int, ...]) -> bool:
    """Whether only `make test-all` tests this mistake.

    `make test` tests the mistakes in fast exercises with one set of seeds, and the first mistake of each exercise of lab 03.
    """
    return seeds != SEEDS or exercise.lab == "04" or (exercise.lab in REAL_PROCESSES and index > 0)


MISTAKES = [
    pytest.param(
        name, index, seeds, id=f"{name}-{index}-{seeds[0]}", marks=[pytest.mark.long] if is_long(exercise, index, seeds) else []
    )
    for name, exercise in EXERCISES.items()
    for index in range(len(answer_to(exercise).mistakes))
    for seeds in (SEEDS, OTHER_SEEDS)
    if seeds == SEEDS or exercise.lab not in REAL_PROCESSES
]


@pytest.fixture(autouse=True)
def has_what_it_needs(request: pytest.FixtureRequest) -> None:
    """Skip an exercise that needs a server if the machine has none, and report it."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name and "triton_server" in EXERCISES[name].requires and find_server() is None:
        pytest.skip("not measured here: no tritonserver")


@pytest.fixture(autouse=True)
def right_answers_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise most of the time of these tests would go into computing the same right answers for each mistake."""
    real = judge_module._expected

    def expected(answer: Any, seed: int) -> tuple[list[Any], str]:
        key = answer.exercise.name, seed
        if key not in RIGHT:
            answers, busy = real(answer, seed)
            if busy:
                return answers, busy
            RIGHT[key] = answers
        return RIGHT[key], ""

    monkeypatch.setattr(judge_module, "_expected", expected)


def verdict_on(exercise: Exercise, function: Any, seeds: tuple[int, ...] = SEEDS) -> Verdict:
    return judge(answer_to(exercise), {seed: run_cases(function, exercise, seed) for seed in seeds})


def always(answer: Any) -> Any:
    """A function that returns the same answer for all arguments."""

    def function(*arguments: Any) -> Any:
        return answer

    return function


@pytest.mark.parametrize("name", EXERCISES)
def test_untouched_stub_is_named(name: str) -> None:
    def stub(*arguments: Any) -> Any:
        raise NotImplementedError(name)

    verdict = verdict_on(EXERCISES[name], stub)
    assert verdict.verdict == NOT_ATTEMPTED
    assert verdict.points == 0
    assert EXERCISES[name].function in verdict.message


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("seeds", [SEEDS, as_long((1, 2)), as_long((1000, 31337, 77))])
def test_reference_passes(name: str, seeds: tuple[int, ...]) -> None:
    verdict = verdict_on(EXERCISES[name], answer_to(EXERCISES[name]).reference, seeds)
    assert verdict.verdict == PASSED, str(verdict)
    assert verdict.points == EXERCISES[name].points


@pytest.mark.parametrize(("name", "index", "seeds"), MISTAKES)
def test_planted_mistake_earns_its_own_sentence(name: str, index: int, seeds: tuple[int, ...]) -> None:
    exercise, mistake = EXERCISES[name], answer_to(EXERCISES[name]).mistakes[index]
    verdict = first_good(
        lambda: verdict_on(exercise, mistake.implementation, seeds),
        lambda found: found.message == mistake.message,
        attempts=5 if exercise.lab in REAL_PROCESSES else 1,
    )
    assert verdict.verdict == FAILED
    assert verdict.message == mistake.message
    assert verdict.points == 0


@pytest.mark.parametrize("name", [as_long(n) if exercise.lab in REAL_PROCESSES else n for n, exercise in EXERCISES.items()])
def test_answers_without_thought_fail(name: str) -> None:
    exercise = EXERCISES[name]
    first = answer_to(exercise).to(exercise.cases(SEEDS[0])[0])
    for constant in (None, 0, 0.0, "", [], first):
        assert verdict_on(exercise, always(constant), SEEDS[:1]).verdict == FAILED


@pytest.mark.parametrize("name", EXERCISES)
def test_form(name: str) -> None:
    exercise = EXERCISES[name]
    assert exercise.number.startswith(f"{int(exercise.lab)}.")
    assert len(exercise.statement.split()) < 90
    assert all(0 < len(hint.split()) < 40 for hint in exercise.hints)
    assert len({mistake.message for mistake in answer_to(exercise).mistakes}) == len(answer_to(exercise).mistakes)
    assert len({case.label for case in exercise.cases(3)}) > 3
    assert exercise.function == exercise.name.split(".")[1]


def test_function_names_are_unique_over_all_labs() -> None:
    assert len({exercise.function for exercise in EXERCISES.values()}) == len(EXERCISES)
