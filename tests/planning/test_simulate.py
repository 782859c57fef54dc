"""The simulation runs the engine's scheduler: idle servers answer as predicted, full servers queue, and no request is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from labkit.errors import InvalidRequest
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.handling import Handling, Served, measured_handling
from labkit.planning.latency import request_parts
from labkit.planning.memory import USABLE, cache_bytes, memory_of
from labkit.planning.named_shapes import named_shape
from labkit.planning.published import default_fit
from labkit.planning.simulate import Instance, Load, simulate

PLAN = Deployment(named_shape("gpt-6.7b"), named_gpu("a100-80gb"), batch=8, input_tokens=64, output_tokens=16)


def load_at(rate: float, **settings: Any) -> Load:
    return simulate(PLAN, default_fit(), rate=rate, **{"requests": 120, **settings})


def test_an_idle_server_answers_one_request_as_predicted() -> None:
    load = load_at(0.05)
    alone = request_parts(replace(PLAN, batch=1), default_fit().found).total - default_fit().found.request_seconds
    assert load.latency[0] == pytest.approx(alone, rel=0.05)
    assert load.running == pytest.approx(1.0, abs=0.05)
    assert load.busy < 0.05
    assert load.stable


def test_handling_is_added_to_the_steps() -> None:
    spent = Handling(request=0.3, step=0.02, token=0.01)
    load, before = load_at(0.02, handling=spent), load_at(0.02)
    assert load.first_token[0] - before.first_token[0] == pytest.approx(0.3 + 0.02 + 0.01)
    assert load.latency[0] - before.latency[0] == pytest.approx(0.3 + 16 * (0.02 + 0.01))
    assert load_at(1000, handling=spent).tokens_per_second == pytest.approx(
        8 / (16 * (0.02 + 8 * 0.01) + 8 * 0.3) * 16, rel=0.3
    )


def in_turn(users: int, handling: Handling, requests: int = 400) -> Served:
    """Simulate users who each wait for an answer before they send the next request. Return their median times."""
    server = Instance(PLAN, default_fit(), handling=handling)
    began, first, latency = {}, [], []
    for number in range(users):
        began[number] = server.now
        server.add(number)
    while len(latency) < requests:
        got, ended = server.step()
        first += [server.now - began[number] for number in got]
        for number in ended:
            latency.append(server.now - began[number])
            began[number + users] = server.now
            server.add(number + users)
    return Served(users, float(np.median(first)), float(np.median(latency)))


@pytest.mark.parametrize("users", [3, 8])
def test_handling_is_found_in_the_times_of_users(users: int) -> None:
    spent = Handling(request=0.004, step=0.002, token=0.001)
    found = measured_handling(PLAN, default_fit(), in_turn(1, spent), in_turn(users, spent))
    assert found.request == pytest.approx(spent.request, rel=0.05)
    assert found.step + found.token == pytest.approx(spent.step + spent.token, rel=0.05)
    assert found.token == pytest.approx(spent.token, rel=0.3)


@pytest.mark.parametrize(("first", "second"), [(2, 8), (1, 1)])
def test_handling_needs_one_user_and_several(first: int, second: int) -> None:
    with pytest.raises(InvalidRequest, match=f"of {first} and {second} users"):
        measured_handling(PLAN, default_fit(), Served(first, 1.0, 2.0), Served(second, 1.0, 2.0))


def test_more_load_means_later_answers_and_fuller_steps() -> None:
    idle, busy, full = load_at(0.5), load_at(15), load_at(1000)
    assert idle.latency[1] < busy.latency[1] < full.latency[1]
    assert idle.running < busy.running < full.running <= PLAN.batch
    assert idle.stable
    assert not full.stable
    assert full.busy > 0.99
    assert full.joules_per_token < idle.joules_per_token


def test_a_full_server_reaches_the_throughput_of_its_full_batch() -> None:
    full = load_at(1000)
    batch = PLAN.batch * PLAN.output_tokens / request_parts(PLAN, default_fit().found).total
    assert full.tokens_per_second == pytest.approx(batch, rel=0.3)


def test_two_instances_serve_twice_the_load() -> None:
    one, two = load_at(1000), load_at(1000, instances=2)
    assert two.tokens_per_second == pytest.approx(2 * one.tokens_per_second, rel=0.1)


def test_the_seed_decides_the_arrivals() -> None:
    assert load_at(10, seed=1) == load_at(10, seed=1) != load_at(10, seed=2)


def test_a_small_cache_preempts_and_still_ends_every_request() -> None:
    """The cache has room for two and a half requests, so the scheduler preempts, but all tokens are still generated."""
    weights = Deployment(named_shape("gpt-6.7b"), named_gpu("a100-80gb"), batch=64, input_tokens=16, output_tokens=512)
    small = replace(weights.device, memory_bytes=19.0e9, runtime_bytes=1e9)
    load = simulate(replace(weights, device=small), default_fit(), rate=100, requests=60)
    assert load.preemptions > 0
    assert load.latency[1] > load.latency[0] > 0


def test_impossible_loads_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="the rate is 0 requests per second"):
        load_at(0)
    with pytest.raises(InvalidRequest, match="at least 2 requests"):
        load_at(1, requests=1)
    memory = memory_of(PLAN)
    filled = (memory.total - memory.cache + cache_bytes(PLAN, tokens=79)) / USABLE
    tight = replace(PLAN, device=replace(PLAN.device, memory_bytes=filled))
    with pytest.raises(InvalidRequest, match="less than one request"):
        simulate(tight, default_fit(), rate=1)


def test_a_pipeline_is_kept_full() -> None:
    """Three stages with many sequences have no bubble, as with steps in flight: they are faster than a single batch alone."""
    plan = Deployment(named_shape("gpt-530b"), named_gpu("a100-80gb"), 8, 3, batch=48, input_tokens=60, output_tokens=20)
    load = simulate(plan, default_fit(), rate=1000, requests=200)
    alone = plan.batch * plan.output_tokens / request_parts(plan, default_fit().found).total
    assert load.tokens_per_second > alone
