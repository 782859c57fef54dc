"""Fleets: one instance behaves as in the simulation of a server, more instances are faster, and failures lose no request."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.errors import InvalidRequest
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.fleet import ROUTES, Failures, simulate_fleet
from labkit.planning.named_shapes import named_shape
from labkit.planning.published import default_fit
from labkit.planning.simulate import simulate

PLAN = Deployment(named_shape("gpt-20b"), named_gpu("a100-80gb"), 4, 1, "fp16", 8, 60, 20)
FOUND = default_fit()


def fleet(**more: Any) -> Any:
    return simulate_fleet(PLAN, FOUND, **({"rate": 20.0, "instances": 3, "requests": 400} | more))


def test_one_instance_is_the_server_of_the_simulation() -> None:
    one = simulate(PLAN, FOUND, rate=6.0, requests=300, seed=4)
    same = fleet(rate=6.0, instances=1, requests=300, seed=4)
    assert (*same.latency, *same.first_token, same.busy) == pytest.approx((*one.latency, *one.first_token, one.busy))
    assert (same.failures, same.sent_again, same.away) == (0, 0, 0)


def test_in_turn_is_what_the_simulation_does_with_several() -> None:
    several = simulate(PLAN, FOUND, rate=20.0, requests=400, instances=3)
    assert fleet(route="in turn").latency == pytest.approx(several.latency)


@pytest.mark.parametrize("route", ROUTES)
def test_more_instances_are_faster(route: str) -> None:
    slow, quick = (fleet(rate=40.0, instances=count, route=route) for count in (1, 4))
    assert slow.latency[1] > 2 * quick.latency[1]
    assert not slow.stable
    assert quick.stable


def test_looking_at_the_queues_shortens_the_tail() -> None:
    blind, seeing = (fleet(rate=55.0, requests=1500, route=route) for route in ("in turn", "fewest requests"))
    assert seeing.latency[1] < 1.1 * blind.latency[1]


def test_failures_lose_no_request_and_cost_time() -> None:
    without = fleet(requests=1500)
    failing = fleet(requests=1500, failures=Failures(mean_seconds_between=20, repair_seconds=8))
    assert failing.failures > 2
    assert failing.sent_again > 0
    assert 0.1 < failing.away < 0.6
    assert failing.latency[1] > 1.2 * without.latency[1]  # every request has a last token; otherwise this would be NaN and fail


def test_if_all_instances_are_away_requests_wait() -> None:
    found = fleet(instances=1, rate=4.0, requests=200, failures=Failures(mean_seconds_between=10, repair_seconds=30))
    assert found.failures > 0
    assert found.latency[1] > 20


def test_the_share_of_late_requests() -> None:
    assert fleet(bound_seconds=1e-6).late == 1
    assert fleet(bound_seconds=1e6).late == 0


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"instances": 0}, {"requests": 1}, {"route": "by beauty"}])
def test_impossible_loads_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"are accepted|is accepted"):
        fleet(**wrong)
