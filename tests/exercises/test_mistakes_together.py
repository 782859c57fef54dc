"""If an answer has two known mistakes at once, the message names both."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import pytest

from labkit.exercises.answer import Mistake
from labkit.exercises.registry import exercise as find
from labkit.exercises.registry import of_lab
from labkit.grading import judge as judging
from labkit.grading.call import call_and_observe, run_cases
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED
from tests.grading.forms import an_answer, on
from tests.sampled import as_long

LEAST_PAIRS = {
    "parameter_count": 40,
    "weight_gib": 12,
    "kv_cache_bytes": 20,
    "gpus_needed": 6,
    "roofline_time": 4,
    "decode_floor_ms": 20,
    "fused_residual_layer_norm": 15,
}


@pytest.mark.parametrize("seeds", [SEEDS, as_long((5, 600)), as_long((7,))])
@pytest.mark.parametrize("name", [as_long(name) if name == "fused_residual_layer_norm" else name for name in LEAST_PAIRS])
def test_every_two_mistakes_that_compose_are_named(name: str, seeds: tuple[int, ...]) -> None:
    exercise, tried = find(name), 0
    for one, other in combinations(answer_to(exercise).mistakes, 2):
        both = one.together(other)
        if both is None:
            continue
        verdict = judge(answer_to(exercise), {seed: run_cases(both.implementation, exercise, seed) for seed in seeds})
        assert (verdict.verdict, verdict.message) == (FAILED, both.message)
        assert one.message in verdict.message
        assert other.message in verdict.message
        tried += 1
    assert tried >= LEAST_PAIRS[name]


def test_two_norms_and_no_head_bias() -> None:
    def parameter_count(config: Any) -> int:
        h, i, v = config.hidden_size, config.intermediate_size, config.vocab_size
        return 2 * v * h + config.num_layers * (4 * h * h + 2 * h * i + i + h + 4 * h) + 2 * h

    exercise = find("parameter_count")
    message = judge(answer_to(exercise), {seed: run_cases(parameter_count, exercise, seed) for seed in SEEDS}).message
    assert message.startswith("Two things are wrong. First: A GPT-J block has only one layer norm")
    assert "Second: The head has a bias as well" in message


def test_seconds_and_no_length() -> None:
    def decode_floor_ms(config: Any, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
        weights = (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes
        return (weights + config.kv_bytes_per_token(element_bytes) * batch) / bytes_per_second

    exercise = find("decode_floor_ms")
    message = judge(answer_to(exercise), {seed: run_cases(decode_floor_ms, exercise, seed) for seed in SEEDS}).message
    assert "That is seconds" in message
    assert "multiply the bytes of the cache by length" in message


def test_only_different_options_of_one_function_compose() -> None:
    def f(x: int, *, a: int = 0, b: int = 0) -> int:
        return x + a + b

    def g(x: int, *, b: int = 0) -> int:
        return x + b

    one = Mistake("a.", partial(f, a=1))
    both = one.together(Mistake("b.", partial(f, b=1)))
    assert both is not None
    assert (both.implementation(5), both.message) == (7, "Two things are wrong. First: a. Second: b.")
    for other in (partial(f, a=2), partial(g, b=1), partial(f, 1), f):
        assert one.together(Mistake("c.", other)) is None


def test_a_wrong_answer_of_no_known_kind_costs_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first input rules out most candidates for the mistake, so a check stays quick."""
    calls = []
    real = call_and_observe
    monkeypatch.setattr(judging, "call_and_observe", lambda *given: calls.append(1) or real(*given))
    for exercise in of_lab("00"):
        calls.clear()
        wrong = {seed: run_cases(lambda *given: 12345.678, exercise, seed) for seed in SEEDS}
        message = judge(answer_to(exercise), wrong).message
        assert "Two things" not in message
        assert len(calls) <= 2 * len(list(answer_to(exercise).known_mistakes()))


def test_one_mistake_is_preferred_to_two() -> None:
    def f(x: int, *, a: int = 0, b: int = 0) -> int:
        return x + a + b

    wrong = [partial(f, a=1), partial(f, b=2), partial(f, b=3)]
    answer = an_answer(f, on(1, 5, 9), mistakes=tuple(wrong))
    said = [judge(answer, {1: run_cases(lambda x, d=d: x + d, answer.exercise, 1)}).message for d in (3, 4)]
    assert said == ["mistake 2", "Two things are wrong. First: mistake 0 Second: mistake 2"]
