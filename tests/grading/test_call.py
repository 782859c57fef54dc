"""A learner's function is called: even if it fails or never ends, the caller gets an outcome with a message in time."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import pytest
import torch

from labkit.errors import RankFailed
from labkit.exercises.case import Case
from labkit.grading.call import Outcome, OutOfTimeError, call, run_cases, run_seeds, time_limit
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED, NOT_ATTEMPTED, PASSED, Verdict
from labkit.time_limits import listening
from tests.busy_core import no_other_programs
from tests.grading.forms import an_answer, on, row_sums
from tests.patience import PATIENCE


def outcome_of(function: Any, *arguments: Any, seconds: float = 5.0) -> Outcome:
    return call(function, Case("case", arguments), seconds)


def verdict_on(function: Any, **changes: Any) -> Verdict:
    answer = an_answer(**changes)
    return judge(answer, run_seeds(function, answer.exercise, SEEDS))


def test_a_value_comes_back() -> None:
    assert outcome_of(lambda a, b: a + b, 2, 3) == Outcome(5)
    assert call(lambda a, *, b: a - b, Case("case", (2,), {"b": 5}), 1.0) == Outcome(-3)


def endless() -> None:
    while True:
        pass


def endless_in_spite_of_errors() -> None:
    while True:
        try:
            while True:
                time.sleep(0.001)
        except Exception:
            continue


def endless_in_spite_of_everything() -> None:
    for _ in range(2):
        try:
            while True:
                time.sleep(0.001)
        except:  # noqa: E722
            pass
    while True:
        pass


@pytest.mark.parametrize("function", [endless, endless_in_spite_of_errors, endless_in_spite_of_everything])
def test_an_endless_loop_is_stopped(function: Any) -> None:
    outcome = outcome_of(function, seconds=0.2)
    assert outcome.error == "it ran for more than 0.2 seconds and was stopped"
    assert outcome_of(lambda: time.sleep(0.3) or 7, seconds=PATIENCE).value == 7  # no old alarm is still active


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="not measured here: this system has no timer")
def test_a_listener_may_take_longer_than_the_pause_between_two_errors() -> None:
    heard: list[str] = []

    def listener(what: str) -> None:
        time.sleep(1.3)
        heard.append(what)

    with pytest.raises(OutOfTimeError), listening(listener), time_limit(0.1):
        time.sleep(60)
    assert heard == ["your function did not finish within 0.1 seconds"]


def test_the_time_limit_begins_after_the_preparation() -> None:
    left: list[float] = []

    def note(*_: object) -> int:
        left.append(signal.getitimer(signal.ITIMER_REAL)[0])
        return len(left)

    assert call(note, Case("case", ()), 50.0, prepare=note) == Outcome(2)
    assert not 0 < left[0] <= 50  # the tests have a longer limit of their own
    assert 0 < left[1] <= 50


def test_a_preparation_that_fails_is_an_error_in_words() -> None:
    def start(case: Case) -> None:
        raise RankFailed("rank 1 ended")

    outcome = call(lambda: 1, Case("case", ()), PATIENCE, prepare=start)
    assert outcome.error.startswith("it raised RankFailed: rank 1 ended")
    assert outcome.error_kind == "RankFailed"


def test_after_a_time_out_the_other_cases_and_seeds_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    no_other_programs(monkeypatch)
    tried = []

    def function(rows: Any, scale: Any) -> None:
        tried.append(rows)
        endless()

    verdict = verdict_on(function, seconds=0.3)
    assert len(tried) == 1
    assert verdict.verdict == FAILED
    assert "it ran for more than 0.3 seconds" in verdict.message


def fails_itself(numbers: list[float]) -> float:
    return numbers[5]


def fails_in_a_library(numbers: list[float]) -> float:
    import statistics

    total = statistics.mean(numbers)
    return total


def test_an_exception_in_words_with_the_learners_line() -> None:
    assert (
        outcome_of(fails_itself, []).error == "it raised IndexError: list index out of range (in your line `return numbers[5]`)"
    )
    error = outcome_of(fails_in_a_library, []).error
    assert error.startswith("it raised StatisticsError: mean requires at least one data point")
    assert error.endswith("(in your line `total = statistics.mean(numbers)`)")
    missing = outcome_of(lambda: None, 1, 2).error
    assert missing.startswith("it raised TypeError")
    assert "takes 0 positional arguments but 2 were given" in missing
    assert outcome_of(42).error == "it raised TypeError: 'int' object is not callable"


def test_exceptions_of_every_kind_are_the_functions_own() -> None:
    class Unusual(BaseException):
        pass

    class Broken(Exception):
        def __str__(self) -> str:
            raise ValueError

    for kind, said in [(SystemExit, "0"), (Unusual, "gone"), (GeneratorExit, "no message"), (Broken, "no message")]:

        def function(kind: Any = kind, said: str = said) -> None:
            raise kind() if said == "no message" else kind(said)

        outcome = outcome_of(function)
        assert outcome.error_kind == kind.__name__
        assert outcome.error.startswith(f"it raised {kind.__name__}: {said}")
    assert outcome_of(lambda: sys.exit(3)).error_kind == "SystemExit"


def test_the_learners_own_interrupt_stops_the_check() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcome_of(interrupted)


def test_deep_recursion_is_an_error_in_words() -> None:
    def deeper(n: int) -> int:
        return deeper(n + 1)

    assert "RecursionError" in outcome_of(deeper, 0).error


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("expected", [1.5, 3, "text", True, [1, 2], {"a": 1}, torch.ones(3)], ids=str)
@pytest.mark.parametrize(
    "answer",
    [
        10**10_000,
        "x" * 10_000_000,
        list(range(1_000_000)),
        nested(100_000),
        Unprintable(),
        [Unprintable(), 2],
        {"a": Unprintable()},
        1j,
        iter([1]),
        torch.ones(3, device="meta"),
        torch.ones(3).to_sparse(),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3).to(torch.float8_e4m3fn),
        torch.ones(0),
        torch.ones(4).numpy(),
        type,
        ...,
    ],
    ids=lambda value: type(value).__name__,
)
def test_strange_answers_fail_with_a_short_message(answer: Any, expected: Any) -> None:
    verdict = verdict_on(lambda x: answer, reference=lambda x: expected, cases=on(1, 2))
    assert verdict.verdict == FAILED
    assert 10 < len(verdict.message) < 400
    assert len(verdict.details) < 1000
    assert "<div" in verdict.html()


@pytest.mark.parametrize(
    ("argument", "change", "named"),
    [
        (torch.ones(3), lambda x: x.mul_(2), "argument 'x'"),
        (torch.ones(3), lambda x: x.resize_(2), "argument 'x'"),
        (torch.ones(3), lambda x: setattr(x, "data", x.data.double()), "argument 'x'"),
        (torch.tensor([True, False]), lambda x: x.logical_not_(), "argument 'x'"),
        ([1, 2], lambda x: x.append(3), "argument 'x'"),
        ([1, 2], lambda x: x.__setitem__(0, "1"), "argument 'x'"),
        ([[1], [2]], lambda x: x.__setitem__(0, 5), "argument 'x'"),
        ([[1], [2]], lambda x: x[1].pop(), "argument 'x'"),
        ({"a": [1]}, lambda x: x["a"].clear(), "argument 'x'"),
        ({"a": 1}, lambda x: x.__setitem__("b", 2), "argument 'x'"),
        ([torch.ones(2)], lambda x: x[0].zero_(), "argument 'x'"),
    ],
)
def test_a_changed_argument_is_found(argument: Any, change: Any, named: str) -> None:
    def changes(x: Any) -> int:
        change(x)
        return 5

    verdict = verdict_on(changes, reference=lambda x: 5, cases=on(argument))
    assert verdict.verdict == FAILED
    assert named in verdict.message
    assert "work on a copy" in verdict.message
    assert verdict_on(lambda x: 5, reference=lambda x: 5, cases=on(argument)).verdict == PASSED


def test_a_changed_keyword_argument_is_named() -> None:
    def with_keyword(seed: int) -> list[Case]:
        return [Case("one", (), {"rows": [1, 2]})]

    def changes(rows: list[int]) -> int:
        rows.sort(reverse=True)
        return 5

    verdict = verdict_on(changes, reference=lambda rows: 5, cases=with_keyword)
    assert "argument 'rows'" in verdict.message


@pytest.mark.parametrize("argument", [float("nan"), torch.tensor([1.0, float("nan")]), [float("nan")], torch.ones(0)], ids=str)
def test_arguments_that_are_no_number_do_not_count_as_changed(argument: Any) -> None:
    assert verdict_on(lambda x: 5, reference=lambda x: 5, cases=on(argument)).verdict == PASSED


def test_a_right_function_passes_on_fresh_inputs_each_time() -> None:
    seen: list[int] = []

    def right(rows: torch.Tensor, scale: float) -> torch.Tensor:
        seen.append(int(rows.numel()))
        return rows.sum(-1) * scale

    verdict = verdict_on(right)
    assert (verdict.verdict, verdict.points) == (PASSED, 10)
    assert verdict.message == "6 inputs agree with the reference."
    assert seen == [3, 12] * 3


def test_a_known_mistake_earns_its_sentence_and_an_unknown_one_a_description() -> None:
    mistakes = (lambda rows, scale: rows.sum(-1), lambda rows, scale: rows.sum(0) * scale, lambda rows, scale: 1 / 0)
    assert verdict_on(mistakes[0], mistakes=mistakes).message == "mistake 0"
    assert verdict_on(mistakes[1], mistakes=mistakes).message == "mistake 1"
    assert verdict_on(mistakes[2], mistakes=mistakes).message == "mistake 2"
    unknown = verdict_on(lambda rows, scale: rows.sum(-1) * scale + 1, mistakes=mistakes)
    assert "is not right: it is too large" in unknown.message  # one row, so one number
    now_and_then = verdict_on(lambda rows, scale: rows.sum(-1) * (scale if len(rows) > 1 else 1), mistakes=mistakes)
    assert now_and_then.message != "mistake 0"
    assert "it is half the right value" in now_and_then.message


def test_wrong_on_the_last_input_only_is_found() -> None:
    count = iter(range(100))
    verdict = verdict_on(lambda rows, scale: row_sums(rows, scale) * (1 if next(count) < 5 else 1.01))
    assert verdict.verdict == FAILED
    assert verdict.points == 0


def test_a_place_is_called_by_its_name_and_a_failing_verdict_names_the_hint() -> None:
    def pair(x: Any) -> Any:
        return torch.ones(2), torch.ones(3)

    verdict = verdict_on(lambda x: (torch.ones(2), torch.zeros(3)), reference=pair, cases=on(1, 2), names={"[1]": "normed"})
    assert verdict.message == "The tensor normed is all zeros."
    assert verdict.details.splitlines()[-1] == 'a hint: hint("row_sums")'
    words = verdict_on(lambda x: 5, reference=lambda x: 7, cases=on(1, 2), words=lambda found, right: f"{found}, not {right}")
    assert words.message == "5, not 7"


def test_an_exercise_may_say_what_is_wrong_with_an_answer() -> None:
    def explain(case: Case, found: Any, right: Any) -> str:
        return f"{case.label}: {found[1]} of {right}" if found[1] != 4 else ""

    def verdict(answer: Any) -> Verdict:
        return verdict_on(lambda x: answer, reference=lambda x: (1, 2), cases=on(7), explain=explain)

    assert verdict((1, 3)).message == "input 0: 3 of (1, 2)"
    assert verdict((1, 4)).message.startswith("The value at [1] is not right")  # `explain` returns ""
    assert verdict((1, "x")).message.startswith("The answer at [1] is a string")  # the answer has the wrong type
    assert verdict((2, object())).message.startswith("input 0")
    assert verdict((1, 3, 4)).message == "Your function returns 3 items; it should return 2 items."


def test_an_exercise_may_end_at_the_first_error() -> None:
    calls: list[int] = []

    def second_fails(rows: Any, scale: float) -> Any:
        calls.append(1)
        return row_sums(rows, scale) if len(calls) < 2 else 1 / 0

    assert "ZeroDivisionError" in verdict_on(second_fails, ends_at_error=True).message
    assert len(calls) == 2
    calls.clear()
    verdict_on(second_fails)
    assert len(calls) == 6


def test_a_long_print_is_cut() -> None:
    def talks(rows: Any, scale: float) -> Any:
        print("\n".join(f"line {number}" for number in range(40)))
        return rows

    printed = [line for line in verdict_on(talks).details.splitlines() if line.startswith("printed: ")]
    assert (printed[0], printed[-1], len(printed)) == ("printed: ... 28 more lines", "printed: line 39", 13)


def test_a_stub_is_not_attempted() -> None:
    def stub(rows: Any, scale: float) -> None:
        raise NotImplementedError("row_sums")

    verdict = verdict_on(stub)
    assert (verdict.verdict, verdict.points) == (NOT_ATTEMPTED, 0)
    assert verdict.message.startswith("row_sums still raises NotImplementedError")


def test_answers_of_the_wrong_number_fail() -> None:
    answer = an_answer()
    right = run_seeds(row_sums, answer.exercise, SEEDS)
    assert judge(answer, right).verdict == PASSED
    assert judge(answer, {}).verdict == FAILED
    assert judge(answer, dict.fromkeys(SEEDS, ())).verdict == FAILED
    assert judge(answer, right | {SEEDS[2]: right[SEEDS[2]][:1]}).verdict == FAILED
    assert judge(answer, right | {SEEDS[2]: [*right[SEEDS[2]], Outcome(1)]}).verdict == FAILED


def test_what_is_observed_may_be_spoilt() -> None:
    answer = an_answer(lambda x: 5, on([1, 2]), observe=lambda case, value: {"value": value, "first": case.args[0][0]})
    assert run_cases(lambda x: 5, answer.exercise, 1)[0].value == {"value": 5, "first": 1}
    (spoilt,) = run_cases(lambda x: x.clear(), answer.exercise, 1)
    assert "cannot be read" in spoilt.error
    assert judge(answer, {1: [spoilt]}).verdict == FAILED
