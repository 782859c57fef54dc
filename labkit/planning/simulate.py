"""Simulates a server under random load: requests arrive one by one, and join the running batch between two steps.

The engine's own `Scheduler` plans each step. The step is not computed; only its time is predicted. The time that a
server needs in addition to the steps is added if it was measured (`handling`).
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from labkit.engine.sampling_params import SamplingParams
from labkit.engine.schedule.plan import Plan as Step
from labkit.engine.schedule.scheduler import MAX_STEP_TOKENS, Scheduler
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_pool import SlotPool
from labkit.errors import InvalidRequest
from labkit.planning.deployment import Deployment
from labkit.planning.fit import Fit
from labkit.planning.handling import Handling
from labkit.planning.latency import Work, step_parts
from labkit.planning.memory import cache_bytes, memory_of, usable_bytes

LEAST_SLOTS_FOR = 1
"""The cache must hold at least this many requests of full length."""
MOST_SLOTS = 2**22
"""The largest simulated cache, in tokens.

A larger cache would not change the simulation, but would take up memory in this process.
"""


@dataclass(frozen=True)
class Load:
    """The result of a simulation, with times in seconds. `busy`: the share of the time during which a step runs.

    `first_token` and `latency` are pairs (p50, p99) of the time after a request's arrival. `running` is the mean number of
    sequences in a step. `stable`: whether the server kept up; if not, the waiting time grows with the length of the simulation.
    """

    rate: float
    instances: int
    requests: int
    first_token: tuple[float, float]
    latency: tuple[float, float]
    tokens_per_second: float
    busy: float
    running: float
    preemptions: int
    stable: bool
    joules_per_token: float

    def sentence(self) -> str:
        """The result in words."""
        first, last = ([f"{1e3 * value:,.0f}" for value in pair] for pair in (self.first_token, self.latency))
        energy = f", at most {self.joules_per_token:.2f} J per token" if self.joules_per_token else ""
        late = "" if self.stable else " The server does not keep up with this rate: the queue grows."
        return (
            f"Simulated with the engine's scheduler: {self.rate:g} requests/s at random times, {self.instances} instance(s): "
            f"first token after {first[0]} ms (p99 {first[1]}), whole request {last[0]} ms (p99 {last[1]}), "
            f"{self.tokens_per_second:,.0f} tokens/s, busy {100 * self.busy:.0f} %, {self.running:.1f} sequences in a "
            f"step{energy}.{late}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"first_token": list(self.first_token), "latency": list(self.latency)}


def work_of(step: Step) -> Work:
    """The work of a step that the scheduler has planned."""
    cached = sum(entry.num_tokens for entry in step.decodes) + sum(chunk.begin for chunk in step.chunks)
    pairs = sum(chunk.count * (chunk.begin + chunk.count / 2) for chunk in step.chunks)
    scores = sum(chunk.count * (chunk.begin + chunk.count) for chunk in step.chunks)
    return Work(step.num_tokens, cached, pairs, scores, len(step.decodes) + sum(chunk.is_last for chunk in step.chunks))


def cache_slots(plan: Deployment) -> int:
    """How many tokens the KV cache of an instance can hold in the remaining memory.

    Raises `InvalidRequest` if the cache cannot hold one request.
    """
    memory = memory_of(plan)
    left = usable_bytes(plan) - memory.weights - memory.activations - memory.workspace
    slots = int(left // cache_bytes(plan, tokens=1))
    if slots < LEAST_SLOTS_FOR * (plan.input_tokens + plan.output_tokens):
        raise InvalidRequest(
            f"the memory left for the KV cache holds {max(slots, 0)} tokens, less than one request: {plan.label}"
        )
    return min(slots, MOST_SLOTS)


NO_HANDLING = Handling()


class Instance:
    """One copy of the model: its scheduler, the time `now` at which its last step ended, and its `unfinished` requests."""

    def __init__(
        self, plan: Deployment, found: Fit, max_step_tokens: int = MAX_STEP_TOKENS, handling: Handling = NO_HANDLING
    ) -> None:
        self.plan, self.found, self.handling = plan, found, handling
        pool = SlotPool(cache_slots(plan), prefix_reuse=False)
        self.scheduler = Scheduler(pool, plan.batch, max(max_step_tokens, plan.batch + 1))
        self.now = self.busy = 0.0
        self.steps = self.rows = 0
        self.unfinished: set[int] = set()

    def add(self, request: int, moment: float = 0.0) -> None:
        """Give the instance a request at the time `moment`. An idle instance starts to work at this time."""
        if self.waits:
            self.now = max(self.now, moment)
        self.unfinished.add(request)
        plan = self.plan
        sequence = Sequence(
            request=request,
            sample=0,
            prompt=[0] * plan.input_tokens,
            params=SamplingParams(ignore_eos=True),
            max_new_tokens=plan.output_tokens,
            eos_token_id=None,
            bad_words=(),
            seed=0,
            token_bytes=lambda token: b"",
        )
        self.scheduler.add([sequence])

    def step(self) -> tuple[list[int], list[int]]:
        """Run one step. Returns the requests that got their first token, and the requests that have ended."""
        planned = self.scheduler.plan()
        seconds = float(step_parts(self.plan, work_of(planned), self.found.found).total)
        sent = len(planned.decodes) + sum(chunk.is_last for chunk in planned.chunks)
        seconds += self.handling.seconds(sum(chunk.begin == 0 for chunk in planned.chunks), sent)
        self.now += seconds
        self.busy += seconds
        self.steps += 1
        self.rows += len(planned.entries)
        first, ended = [], []
        for entry in self.scheduler.commit(planned):
            event = entry.sequence.append(0, None)
            if len(entry.sequence.new_tokens) == 1:
                first.append(entry.sequence.request)
            if event.finish_reason is not None:
                self.scheduler.finish(entry)
                ended.append(entry.sequence.request)
        self.unfinished.difference_update(ended)
        return first, ended

    @property
    def waits(self) -> bool:
        """Whether the instance has nothing to compute."""
        return not self.scheduler.running and not self.scheduler.waiting


def simulate(
    plan: Deployment,
    found: Fit,
    *,
    rate: float,
    instances: int = 1,
    requests: int = 1000,
    seed: int = 0,
    max_step_tokens: int = MAX_STEP_TOKENS,
    handling: Handling = NO_HANDLING,
) -> Load:
    """Serve `requests` requests that arrive at `rate` per second, at exponentially distributed intervals (a Poisson process).

    Requests go to the instances in turn. An instance runs at most `plan.batch` sequences at a time. `handling`: the time that
    the server needs in addition to the model. Raises `InvalidRequest` for a rate that is not positive, for fewer than 2
    requests, and if the cache is too small for one request.
    """
    if not 0 < rate < float("inf"):
        raise InvalidRequest(f"the rate is {rate:g} requests per second; a number above 0 is accepted")
    if requests < 2 or instances < 1:
        raise InvalidRequest(f"{requests} requests on {instances} instances; at least 2 requests and 1 instance are accepted")
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests))
    first, last = np.zeros(requests), np.zeros(requests)
    servers = [Instance(plan, found, max_step_tokens, handling) for _ in range(instances)]
    for number, server in enumerate(servers):
        _serve(server, range(number, requests, instances), arrivals, first, last)
    end = float(last.max())
    tokens = requests * plan.output_tokens / end
    # In a server that does not keep up, the last quarter of the requests waits much longer than the first quarter.
    waited = last - arrivals
    quarter = max(1, requests // 4)
    early, late = float(np.median(waited[:quarter])), float(np.median(waited[-quarter:]))
    watts = plan.device.watts * plan.ranks * instances
    steps = sum(server.steps for server in servers)
    return Load(
        rate=rate,
        instances=instances,
        requests=requests,
        first_token=ends(first - arrivals),
        latency=ends(waited),
        tokens_per_second=tokens,
        busy=sum(server.busy for server in servers) / (end * instances),
        running=sum(server.rows for server in servers) / max(steps, 1),
        preemptions=sum(server.scheduler.preemptions for server in servers),
        stable=late < 2 * early,
        joules_per_token=watts / tokens,
    )


def _serve(server: Instance, mine: SequenceOf[int], arrivals: Any, first: Any, last: Any) -> None:
    """Serve the requests `mine` with one instance, and store the times of their first and last tokens."""
    waiting = list(mine)[::-1]
    while waiting or not server.waits:
        if server.waits and waiting:
            server.add(waiting[-1], float(arrivals[waiting.pop()]))
        while waiting and arrivals[waiting[-1]] <= server.now:
            server.add(waiting.pop())
        began, ended = server.step()
        first[began] = server.now
        last[ended] = server.now


def ends(seconds: Any) -> tuple[float, float]:
    """The pair (p50, p99) of an array of seconds."""
    return float(np.quantile(seconds, 0.5)), float(np.quantile(seconds, 0.99))
