"""A function that lets labkit compute its result fails the check. A function that computes its result itself passes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from labkit.config import GPTJConfig
from labkit.exercises.case import directly
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import all_exercises
from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_seeds
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.run_statements import define
from labkit.grading.submission import submission_of
from labkit.grading.verdict import FAILED, PASSED
from tests.exercises.learners import solved_cells
from tests.sampled import one_in


def rebuilt(config: Any) -> int:
    return GPTJConfig(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        rotary_dim=2,
        context_length=64,
        vocab_size=config.vocab_size,
        intermediate_size=config.intermediate_size,
    ).parameter_count


def rebuilt_in_a_thread_of_calls(config: Any) -> int:
    return next(map(rebuilt, [config]))


def rebuilt_cache(config: Any, lengths: list[int], element_bytes: int) -> int:
    sizes = {name: getattr(config, name) for name in ("hidden_size", "num_layers", "num_heads", "vocab_size")}
    same = GPTJConfig(**sizes, rotary_dim=2, context_length=64)
    return same.kv_bytes_per_token(element_bytes) * sum(lengths)


def imported(*given: Any) -> Any:
    from labkit.answers.lab00 import weight_gib

    return weight_gib(*given)


def another_labs(config: Any, batch: int, length: int, size: int, seconds: float, rate: float) -> float:
    from labkit.answers.lab00 import decode_floor_ms

    return decode_floor_ms(config, batch, length, size, rate) / 1e3 / seconds


def softmax_of_labkit(blocks: Any) -> Any:
    from labkit.answers.lab02.online_softmax import online_softmax

    return online_softmax(blocks)


def steps_of_labkit(kernels: Any, launch: Any, captured: Any) -> Any:
    from labkit.answers.lab02.capture import step_seconds

    return step_seconds(kernels, launch, captured)


def verdict_on(name: str, function: Callable[..., Any]) -> tuple[str, str]:
    exercise = find(name)
    found = judge(answer_to(exercise), run_seeds(function, exercise, SEEDS))
    return found.verdict, found.message


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("parameter_count", rebuilt, "GPTJConfig"),
        ("parameter_count", rebuilt_in_a_thread_of_calls, "GPTJConfig"),
        ("kv_cache_bytes", rebuilt_cache, "GPTJConfig"),
        ("weight_gib", imported, "weight_gib"),
        ("weight_gib", answer_to(find("weight_gib")).reference, "weight_gib"),
        ("roofline_fraction", another_labs, "decode_floor_ms"),
        ("online_softmax", softmax_of_labkit, "online_softmax"),
        ("step_seconds", steps_of_labkit, "step_seconds"),
    ],
)
def test_labkit_does_not_answer(name: str, function: Callable[..., Any], said: str) -> None:
    function.__name__, before = name, function.__name__
    try:
        verdict, message = verdict_on(name, function)
    finally:
        function.__name__ = before
    asked = f"The result is right, but it uses labkit's own {said}: compute the result from your function's arguments."
    assert (verdict, message) == (FAILED, asked)


def parameters_printed(config: Any) -> int:
    print(config, config == config, {config})
    h, i, v = config.hidden_size, config.intermediate_size, config.vocab_size
    return 2 * v * h + v + config.num_layers * (4 * h * h + 2 * h * i + i + h + 2 * h) + 2 * h


def floor_by_config(config: Any, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    weights = (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes
    return 1000 * (weights + config.kv_bytes_per_token(element_bytes) * batch * length) / bytes_per_second


def runs_timed(call: Any, synchronize: Any, clock: Any, warmup: int, runs: int) -> list[float]:
    for _ in range(warmup):
        call()
    times = []
    for _ in range(runs):
        synchronize()
        started = clock()
        call()
        synchronize()
        times.append(clock() - started)
    return times


def decoded(model: Any, input_ids: Any, new_tokens: int) -> Any:
    import torch

    out = model(input_ids, use_cache=True)
    made = [out.logits[:, -1].argmax(-1, keepdim=True)]
    while len(made) < new_tokens:
        out = model(made[-1], past_key_values=out.past_key_values, use_cache=True)
        made.append(out.logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(made, dim=1)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("parameter_count", parameters_printed),
        ("decode_floor_ms", floor_by_config),
        ("time_runs", runs_timed),
        ("greedy_decode", decoded),
    ],
)
def test_what_a_function_is_given_may_be_used(name: str, function: Callable[..., Any]) -> None:
    assert verdict_on(name, function)[0] == PASSED


CALLED_HERE = [one for one in all_exercises() if one.run is directly and "triton" not in one.requires]


@pytest.mark.parametrize("exercise", one_in(3, CALLED_HERE), ids=lambda one: one.function)
def test_the_course_solutions_are_own_work(exercise: Exercise) -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    with torch.enable_grad():  # the lab's set-up cell switches gradients off; this block switches them on again at its end
        failed = define(submission_of(*solved_cells(exercise.lab)).needed_for(exercise.function), scope)
        assert exercise.function in scope, failed
        verdict = judge(answer_to(exercise), run_seeds(scope[exercise.function], exercise, SEEDS[:1]))
    assert verdict.verdict == PASSED, str(verdict)


def test_a_profiler_that_was_set_is_set_again() -> None:
    def profiler(*given: Any) -> None:
        return None

    sys.setprofile(profiler)
    try:
        verdict_on("parameter_count", parameters_printed)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
