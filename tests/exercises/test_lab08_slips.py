"""Wrong answers to lab 08 as beginners write them: no wrong answer passes, and each gets a message that says what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_cases
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED

Plan = dict[str, Any]


def verdict_on(name: str, function: Callable[..., Any]) -> Any:
    exercise = find(f"lab08.{name}")
    return judge(answer_to(exercise), {seed: run_cases(function, exercise, seed) for seed in SEEDS})


def scale_as_wide_as_a_value(parameters: int, bits: int, sparse: bool, group_size: int) -> float:
    each = bits + (bits / group_size if group_size else 0) + 2 * sparse
    return (parameters / 2 if sparse else parameters) * each / 8 / 2**30


def batch(whole: Callable[[float], Any]) -> Callable[..., Any]:
    def function(model: Plan, gpu: int, reserve: float, shards: int, tokens: int, size: int) -> Any:
        room = gpu * (1 - reserve) - model["weight_bytes"] / shards
        return whole(room / (2 * model["layers"] * model["hidden"] * size * tokens / shards))

    return function


def turning(none: Callable[[float], bool]) -> Callable[..., Any]:
    def function(parameters: int, weights: int, cache: int, flops: float, read: float) -> Any:
        rest = 2 * parameters / flops - cache / read
        return None if none(rest) else weights / read / rest

    return function


def one_hop(size: int, ranks: int, hop: float, rate: float) -> float:
    return 1e3 * (hop + 2 * (ranks - 1) * size / ranks / rate)


def request(
    gap_unit: float = 1.0, sum_unit: float = 1.0, gaps: bool = True, sums: bool = True
) -> Callable[[Plan, Plan, Plan, int, int, int, int], float]:
    def function(model: Plan, gpu: Plan, link: Plan, shards: int, batch: int, prompt: int, new: int) -> float:
        def once(tokens: int) -> float:
            read = model["weight_bytes"] / shards / gpu["read"]
            computed = 2 * tokens * model["parameters"] / shards / gpu["flops"]
            one = 2 * (shards - 1) * (link["hop"] + 2 * tokens * model["hidden"] / shards / link["rate"])
            layers = model["layers"]
            rest = gap_unit * gpu["gap"] * (layers if gaps else 1) + sum_unit * 2 * one * (layers if sums else 1)
            return 1000 * (max(read, computed) + rest)

        return once(batch * prompt) + (new - 1) * once(batch)

    return function


def choose(gpus: Callable[[int, int], float], empty: Callable[[], Any] = lambda: None) -> Callable[..., Any]:
    def function(plans: list[Plan], bound_ms: float, gpu_gib: float) -> Any:
        allowed = [plan for plan in plans if plan["ms"] <= bound_ms and plan["gib"] <= gpu_gib]
        if not allowed:
            return empty()

        def worth(plan: Plan) -> tuple[float, float]:
            return plan["tokens_per_second"] / gpus(plan["tensor_parallel"], plan["pipeline_parallel"]), -plan["ms"]

        return max(allowed, key=worth)

    return function


def last_allowed(plans: list[Plan], bound_ms: float, gpu_gib: float) -> Any:
    return ([plan for plan in plans if plan["ms"] <= bound_ms and plan["gib"] <= gpu_gib] or [None])[-1]


def price(share: Callable[[int], float]) -> Callable[..., float]:
    return lambda price, gpus, rate, busy: price * gpus / (3600 * busy * rate * share(gpus)) * 1e6


def instances(whole: Callable[[float], float], day: int = 86_400) -> Callable[..., float]:
    return lambda requests, peak, each, busy, spare: whole(requests / day * peak / (each * busy)) + spare


def all_slow(plans: list[Plan], bound_ms: float, gpu_gib: float) -> dict[str, str]:
    return {plan["name"]: "too slow" for plan in plans}


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("stored_gib", scale_as_wide_as_a_value, "but a scale always has 16 bits"),
        ("largest_batch", batch(lambda count: max(0.0, count)), "Only whole sequences count"),
        ("largest_batch", batch(lambda count: max(0, round(count))), "You round to the nearest number"),
        ("largest_batch", batch(int), "int(...) of a negative number"),
        ("turning_batch", turning(lambda rest: False), "takes at least as long to read as to compute"),
        ("turning_batch", turning(lambda rest: rest < 0), "takes exactly as long as computing"),
        ("turning_batch", turning(lambda rest: rest == 0), "only if both times of a sequence are equal"),
        ("all_reduce_ms", one_hop, "You count it once, even for a single GPU"),
        ("request_ms", request(gap_unit=1e-3), "`gap` is in seconds"),
        ("request_ms", request(sum_unit=1e-3), "all-reduce is in seconds"),
        ("request_ms", request(sum_unit=1e3), "those of 8.4, for example"),
        ("request_ms", request(gap_unit=1e-3, sum_unit=1e-3), "Two things are wrong. First: `gap` is in seconds"),
        ("request_ms", request(sums=False), "you count those of one layer"),
        ("request_ms", request(gaps=False, sums=False), "First: Each layer has its gap"),
        ("choose_plan", choose(lambda tensor, stages: tensor + stages), "you add the two"),
        ("choose_plan", choose(lambda tensor, stages: stages), "you divide by PP only"),
        ("choose_plan", choose(lambda tensor, stages: tensor * stages, lambda: max([])), "`max` of an empty list"),
        ("choose_plan", choose(lambda tensor, stages: tensor * stages, lambda: [][0]), "has no first element"),
        ("choose_plan", last_allowed, "You choose TP "),
        ("price_per_million", price(lambda gpus: gpus), "does not change your price"),
        ("price_per_million", price(lambda gpus: 1 / gpus), "You count the GPUs twice"),
        ("instances_needed", instances(lambda count: int(count) + 1), "You add one more"),
        ("instances_needed", instances(float), "A fraction of an instance cannot run"),
        ("instances_needed", instances(math.ceil, day=3600), "the seconds of an hour"),
        ("instances_needed", instances(math.ceil, day=1), "for a whole day"),
        ("defend", all_slow, "'too slow' is not right; the limits are 300 ms and 80 GiB"),
    ],
)
def test_a_slip_is_named(name: str, function: Callable[..., Any], said: str) -> None:
    verdict = verdict_on(name, function)
    assert verdict.verdict == FAILED
    assert said in verdict.message
