"""Searches layouts, batch sizes and precisions for plans that meet a latency bound with the given number and memory of GPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.errors import InvalidRequest
from labkit.planning.catalogue import Device
from labkit.planning.deployment import PRECISIONS, Deployment, does_not_divide
from labkit.planning.fit import Fit, Prediction
from labkit.planning.memory import Memory, memory_of, usable_bytes, weight_bytes
from labkit.planning.shape import Shape

RANKINGS = ("throughput", "latency", "gpus")
"""The quantities by which plans can be ranked: tokens per second per GPU, seconds, or GPUs of one instance."""
BATCHES = tuple(2**power for power in range(9))
SECONDS_PER_HOUR, MILLION = 3600.0, 1e6


@dataclass(frozen=True)
class Plan:
    """A deployment that fits into memory, with its prediction. `instances`: how many copies of the model the GPUs hold."""

    plan: Deployment
    predicted: Prediction
    memory: Memory
    instances: int

    @property
    def tokens_per_second_per_gpu(self) -> float:
        """New tokens per second, divided by the GPUs of the instance."""
        return self.plan.batch * self.plan.output_tokens / self.predicted.seconds / self.plan.ranks

    @property
    def samples_per_second_per_gpu(self) -> float:
        """Requests per second, divided by the GPUs of the instance, as NeMo-Megatron's tool reports them."""
        return self.plan.batch / self.predicted.seconds / self.plan.ranks

    @property
    def requests_per_second(self) -> float:
        """Requests per second of all instances, if every batch is full."""
        return self.instances * self.plan.batch / self.predicted.seconds

    @property
    def joules_per_token(self) -> float:
        """An upper bound on the energy of one new token, with the GPUs at their power limit. 0 if the limit is unknown."""
        return self.plan.device.watts / self.tokens_per_second_per_gpu

    def price_per_million_tokens(self, price_per_gpu_hour: float) -> float:
        """The price of a million new tokens, in the currency of `price_per_gpu_hour`."""
        return price_per_gpu_hour / SECONDS_PER_HOUR / self.tokens_per_second_per_gpu * MILLION

    def to_dict(self, price_per_gpu_hour: float = 0.0) -> dict[str, Any]:
        """The fields as plain values, for `--json`."""
        plan, predicted = self.plan, self.predicted
        values: dict[str, Any] = {
            "model": plan.shape.name,
            "gpu": plan.device.name,
            "tensor_parallel": plan.tensor_parallel,
            "pipeline_parallel": plan.pipeline_parallel,
            "batch": plan.batch,
            "precision": plan.precision,
            "sparse": plan.sparse,
            "instances": self.instances,
            "latency_ms": 1e3 * predicted.seconds,
            "interval": [1e3 * predicted.low, 1e3 * predicted.high],
            "parts_ms": {name: 1e3 * seconds for name, seconds in predicted.parts.to_dict().items()},
            "dominated_by": predicted.dominated_by,
            "extrapolated": list(predicted.beyond),
            "memory_bytes_per_gpu": self.memory.total,
            "memory_parts": self.memory.to_dict(),
            "tokens_per_second_per_gpu": self.tokens_per_second_per_gpu,
            "requests_per_second": self.requests_per_second,
            "joules_per_token": self.joules_per_token,
        }
        if price_per_gpu_hour > 0:
            values["price_per_million_tokens"] = self.price_per_million_tokens(price_per_gpu_hour)
        return values


@dataclass(frozen=True)
class Question:
    """The settings of a search. `gpus`: the largest number of GPUs.

    `latency_seconds`: the latency bound; infinity means no bound. `tensor_parallel`, `pipeline_parallel`: the numbers to try;
    if empty, all numbers that can divide the model. `careful`: whether even the upper end of the prediction's interval must
    meet the bound, and not only the prediction itself.
    """

    shape: Shape
    device: Device
    gpus: int = 8
    latency_seconds: float = float("inf")
    precisions: tuple[str, ...] = ("fp16",)
    sparse: bool = False
    batches: tuple[int, ...] = BATCHES
    input_tokens: int = 128
    output_tokens: int = 32
    tensor_parallel: tuple[int, ...] = ()
    pipeline_parallel: tuple[int, ...] = ()
    cache_precision: str = ""
    careful: bool = False

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise InvalidRequest(f"the number of GPUs is {self.gpus}; at least 1 is accepted")
        if not self.latency_seconds > 0:
            raise InvalidRequest(f"the latency bound is {1e3 * self.latency_seconds:g} ms; a number above 0 is accepted")
        if not self.precisions:
            raise InvalidRequest(f"no precision was given; one or more of {', '.join(PRECISIONS)} are accepted")
        if not self.batches:
            raise InvalidRequest("no batch was given; at least one number of at least 1 is accepted")
        for name in ("batches", "tensor_parallel", "pipeline_parallel"):
            if min(numbers := getattr(self, name), default=1) < 1:
                raise InvalidRequest(f"{name} is {', '.join(map(str, numbers))}; whole numbers of at least 1 are accepted")
        if 0 < self.shape.context_length < self.input_tokens + self.output_tokens:
            raise InvalidRequest(
                f"{self.input_tokens} input and {self.output_tokens} output tokens exceed the context of {self.shape.name}, "
                f"which holds {self.shape.context_length} tokens; choose fewer tokens"
            )

    def layouts(self) -> Iterator[tuple[int, int]]:
        """The layouts (TP, PP) that the model and the number of GPUs allow. A TP larger than a node must fill whole nodes.

        Raises `InvalidRequest` if a number that was asked for does not divide the model.
        """
        most = min(self.gpus, self.shape.num_heads)  # larger numbers do not divide the model
        for tensor in self.tensor_parallel or range(1, most + 1):
            for stages in self.pipeline_parallel or range(1, min(self.gpus // tensor, self.shape.num_layers) + 1):
                why = does_not_divide(self.shape, tensor, stages)
                if why and (tensor in self.tensor_parallel or stages in self.pipeline_parallel):
                    both = self.tensor_parallel and self.pipeline_parallel
                    asked = "tensor_parallel" if tensor in self.tensor_parallel else "pipeline_parallel"
                    if both or why.startswith(asked):
                        raise InvalidRequest(why)
                beyond = tensor > self.device.devices_per_node and tensor % self.device.devices_per_node
                if not why and not beyond and tensor * stages <= self.gpus:
                    yield tensor, stages


@dataclass(frozen=True)
class Answer:
    """The result of a search: the plans that meet the bound, best first.

    If no plan meets the bound, `plans` is empty, `nearest` is the fastest of the plans that are too slow (None if there is
    none), and `why_none` is the reason.
    """

    plans: list[Plan]
    tried: int
    too_large: int
    too_slow: int
    nearest: Plan | None = None
    why_none: str = ""
    all_plans: list[Plan] = field(default_factory=list)


def search(question: Question, found: Fit, ranking: str = "throughput") -> Answer:
    """Try every layout (TP, PP), precision and batch size, and rank the plans that meet the bound.

    Larger batches need more memory and more time. So for each layout and precision, larger batches are skipped after the first
    batch that does not fit or is too slow. Raises `InvalidRequest` for an unknown ranking, and if no layout is possible.
    """
    if ranking not in RANKINGS:
        raise InvalidRequest(f"the ranking is {ranking!r}; {', '.join(RANKINGS)} is accepted")
    layouts = list(question.layouts())
    if not layouts:
        raise InvalidRequest(
            f"no division of {question.shape.name} uses at most {question.gpus} GPUs; raise the number of GPUs, or name other "
            "numbers for tensor_parallel and pipeline_parallel"
        )
    met: list[Plan] = []
    slow: list[Plan] = []
    large: list[tuple[float, Deployment]] = []
    tried = 0
    for tensor, stages in layouts:
        for precision in question.precisions:
            weights = weight_bytes(_deployment(question, tensor, stages, precision, 1))
            for batch in sorted(set(question.batches)):
                tried += 1
                plan = _deployment(question, tensor, stages, precision, batch)
                memory = memory_of(plan, weights)
                if (lacking := memory.total - usable_bytes(plan)) > 0:
                    large.append((lacking, plan))
                    break
                one = Plan(plan, found.predict(plan), memory, max(1, question.gpus // plan.ranks))
                end = one.predicted.high if question.careful else one.predicted.seconds
                if end > question.latency_seconds:
                    slow.append(one)
                    break
                met.append(one)
    met.sort(key=lambda one: _key(one, ranking))
    nearest = min(slow, key=lambda one: one.predicted.seconds, default=None)
    why = "" if met else _why_none(question, nearest, large)
    return Answer(met, tried, len(large), len(slow), nearest, why, met + slow)


def _deployment(question: Question, tensor: int, stages: int, precision: str, batch: int) -> Deployment:
    return Deployment(
        question.shape,
        question.device,
        tensor,
        stages,
        precision,
        batch,
        question.input_tokens,
        question.output_tokens,
        question.sparse,
        question.cache_precision,
    )


def _key(one: Plan, ranking: str) -> tuple[float, ...]:
    by_speed = -one.tokens_per_second_per_gpu
    if ranking == "latency":
        return (one.predicted.seconds, one.plan.ranks, by_speed)
    return (one.plan.ranks, by_speed) if ranking == "gpus" else (by_speed, one.predicted.seconds)


def _why_none(question: Question, nearest: Plan | None, large: Sequence[tuple[float, Deployment]]) -> str:
    """A text that says which plan comes nearest, and why this plan does not meet the bound."""
    if nearest is not None:
        plan = nearest.plan
        return (
            f"no plan answers within {1e3 * question.latency_seconds:,.0f} ms. The nearest takes "
            f"{1e3 * nearest.predicted.seconds:,.0f} ms: {plan.label}; most of its time goes to "
            f"{nearest.predicted.dominated_by}"
        )
    lacks, plan = min(large, key=lambda one: one[0])
    return (
        f"no plan fits the memory. The nearest lacks {lacks / 2**30:,.1f} GiB on each GPU: {plan.label}. Use more GPUs, a "
        "smaller precision, a smaller batch or GPUs with more memory"
    )


def pareto(plans: Sequence[Plan]) -> list[Plan]:
    """The plans for which no other plan is better in both latency and tokens per second per GPU, fastest first."""
    places = {(one.predicted.seconds, one.tokens_per_second_per_gpu): one for one in reversed(plans)}
    return [places[place] for place in pareto_points(list(places))]


def pareto_points(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (time, rate) for which no other point has both less time and a higher rate, in the order of time."""
    best, front = 0.0, []
    for time, rate in sorted(points, key=lambda point: (point[0], -point[1])):
        if rate > best:
            best = rate
            front.append((time, rate))
    return front
