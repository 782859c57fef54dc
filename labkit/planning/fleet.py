"""Simulates many instances behind a router: which instance gets a request, and what happens when an instance fails.

As in `simulate`, the engine's own scheduler decides the steps of each instance, and only the time of the steps is predicted. A
failed instance loses its requests. The router sends these requests to other instances, where they start from the beginning.
Failures of the router, of the network and of whole data centres are not simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labkit.errors import InvalidRequest
from labkit.planning.deployment import Deployment
from labkit.planning.fit import Fit
from labkit.planning.simulate import Instance, ends

Choice = Callable[[Sequence[Instance], int, np.random.Generator], int]


def in_turn(instances: Sequence[Instance], number: int, draw: np.random.Generator) -> int:
    """Choose the instances in turn: request n goes to instance n modulo the number of instances."""
    return number % len(instances)


def fewest_requests(instances: Sequence[Instance], number: int, draw: np.random.Generator) -> int:
    """Choose the instance with the fewest unfinished requests. If there are several such instances, one is drawn at random."""
    counts = np.array([len(one.unfinished) for one in instances])
    return int(draw.choice(np.flatnonzero(counts == counts.min())))


def better_of_two(instances: Sequence[Instance], number: int, draw: np.random.Generator) -> int:
    """Draw two instances at random, and choose the one with fewer unfinished requests (Mitzenmacher 2001)."""
    one, other = draw.integers(len(instances), size=2)
    return int(one if len(instances[one].unfinished) <= len(instances[other].unfinished) else other)


ROUTES: dict[str, Choice] = {"in turn": in_turn, "fewest requests": fewest_requests, "better of two": better_of_two}
"""The ways in which a router can choose an instance, by name."""


@dataclass(frozen=True)
class Failures:
    """How often an instance fails, and how long it is then down. Times between failures are exponentially distributed.

    The router notices a failure at once.
    """

    mean_seconds_between: float
    repair_seconds: float


@dataclass(frozen=True)
class FleetLoad:
    """The result of a simulation. The times of requests are pairs (p50, p99) in seconds after the arrival.

    `sent_again`: how many requests lost their instance. `away`: the share of the time during which instances were down, over
    all instances. `late`: the share of the requests that took longer than the bound.
    """

    rate: float
    instances: int
    route: str
    requests: int
    first_token: tuple[float, float]
    latency: tuple[float, float]
    late: float
    busy: float
    failures: int
    sent_again: int
    away: float
    stable: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"first_token": list(self.first_token), "latency": list(self.latency)}


def simulate_fleet(
    plan: Deployment,
    found: Fit,
    *,
    rate: float,
    instances: int,
    requests: int = 2000,
    route: str = "fewest requests",
    failures: Failures | None = None,
    bound_seconds: float = float("inf"),
    seed: int = 0,
) -> FleetLoad:
    """Simulate several instances of a plan, with requests that arrive at `rate` per second (a Poisson process).

    Raises `InvalidRequest` for a rate that is not positive, fewer than 2 requests, no instance, or an unknown route.
    """
    if not 0 < rate < float("inf") or requests < 2 or instances < 1:
        raise InvalidRequest(
            f"{requests} requests at {rate:g} per second on {instances} instances; a rate above 0, at least 2 requests and at "
            "least 1 instance are accepted"
        )
    if route not in ROUTES:
        raise InvalidRequest(f"the route is {route!r}; {', '.join(ROUTES)} is accepted")
    return _Fleet(plan, found, instances, route, failures, seed).serve(rate, requests, bound_seconds)


class _Fleet:
    def __init__(self, plan: Deployment, found: Fit, count: int, route: str, failures: Failures | None, seed: int) -> None:
        self._new: Callable[[], Instance] = lambda: Instance(plan, found)
        self._all = [self._new() for _ in range(count)]
        self._back = [0.0] * count  # the time at which an instance works again; a time in the past means that it works
        self._route, self._failures = route, failures
        self._arrivals_draw, self._draw = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self._busy = 0.0
        self._number = self._sent_again = self._failed = 0
        self._away = 0.0
        self._waiting: list[int] = []

    def serve(self, rate: float, requests: int, bound: float) -> FleetLoad:
        arrivals = np.cumsum(self._arrivals_draw.exponential(1 / rate, requests))
        self._first, self._last = np.full(requests, np.nan), np.full(requests, np.nan)
        events = [(float(moment), "arrival", number) for number, moment in enumerate(arrivals)]
        events += self._failure_events(float(arrivals[-1]))
        for moment, what, number in sorted(events):
            self._advance(moment)
            if what == "arrival":
                self._send(number, moment)
            else:
                self._fail(number, moment)
        end = self._drain()
        waited = self._last - arrivals
        quarter = max(1, requests // 4)
        return FleetLoad(
            rate=rate,
            instances=len(self._all),
            route=self._route,
            requests=requests,
            first_token=ends(self._first - arrivals),
            latency=ends(waited),
            late=float(np.mean(waited > bound)),
            busy=(self._busy + sum(one.busy for one in self._all)) / (end * len(self._all)),
            failures=self._failed,
            sent_again=self._sent_again,
            away=self._away / (end * len(self._all)),
            stable=float(np.median(waited[-quarter:])) < 2 * float(np.median(waited[:quarter])),
        )

    def _failure_events(self, until: float) -> list[tuple[float, str, int]]:
        if self._failures is None:
            return []
        found = []
        for number in range(len(self._all)):
            moment = float(self._draw.exponential(self._failures.mean_seconds_between))
            while moment < until:
                found.append((moment, "failure", number))
                moment += self._failures.repair_seconds + float(self._draw.exponential(self._failures.mean_seconds_between))
        return found

    def _working(self, moment: float) -> list[int]:
        return [number for number, back in enumerate(self._back) if back <= moment]

    def _send(self, request: int, moment: float) -> None:
        """Send a request to an instance that works. If none works, the request waits for the first one that works again."""
        working = self._working(moment)
        if not working:
            self._waiting.append(request)
            return
        place = ROUTES[self._route]([self._all[number] for number in working], self._number, self._draw)
        self._number += 1
        self._all[working[place]].add(request, moment)

    def _fail(self, number: int, moment: float) -> None:
        assert self._failures is not None
        lost = sorted(self._all[number].unfinished)
        self._busy += self._all[number].busy
        self._all[number] = self._new()
        self._back[number] = moment + self._failures.repair_seconds
        self._away += self._failures.repair_seconds
        self._failed += 1
        self._sent_again += len(lost)
        for request in lost:
            self._send(request, moment)

    def _advance(self, moment: float) -> None:
        """Run all instances up to a moment. A step that is running at this moment is completed."""
        if self._waiting and self._working(moment):
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                self._send(request, moment)
        for one in self._all:
            while not one.waits and one.now < moment:
                self._step(one)

    def _step(self, one: Instance) -> None:
        first, ended = one.step()
        self._first[first] = one.now
        self._last[ended] = one.now

    def _drain(self) -> float:
        """Finish all requests. Returns the time at which the last request ends."""
        if self._waiting:
            self._advance(max(self._back))
        for one in self._all:
            while not one.waits:
                self._step(one)
        return float(np.max(self._last))
