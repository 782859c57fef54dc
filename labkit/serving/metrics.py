"""A server's metrics (Prometheus): what its models did up to now, and between two looks.

What the counters count:

| counter | counts |
| --- | --- |
| `labkit_requests_total` | prompts that the engine has taken in |
| `labkit_refused_total{model,reason}` | requests that ended with an error; `refusals.REASONS` explains the reasons |
| `labkit_tokens_total`, `labkit_steps_total`, `labkit_batch_size_bucket` | new tokens, and the steps that made them |
| `nv_inference_request_success{model}` | requests that the model's code has taken in, *also those that it refused* |
| `nv_inference_request_failure{model}` | requests in which the model's code broke; of an ensemble *twice* each failed one |

Those of labkit leave out the watchdog's probes. A refused request of an ensemble is counted once, by the step that refused it.
Those with `nv_` are Triton's (2.51), probes included: it counts a request when the call of the model's code returns, and never
looks at the answer, so the model's code cannot set it right. What Triton refuses itself (an unknown input, a wrong data type)
reaches no model, and is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.channels import open_url
from labkit.serving.refusals import REASONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAUGES = ("labkit_running", "labkit_waiting", "labkit_free_slots", "labkit_num_slots", "nv_inference_pending_request_count")
"""Families that stand for how things are; all others count from the server's start."""

_ENSEMBLE = "ensemble"
_BATCHES = "labkit_batch_size_bucket"
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Metrics:
    """One look, or the difference between two.

    values: by the sample's name, without `_total`, and its labels, such as `("model", "gptj")`, sorted. seconds: since the
    epoch for a look, between the two looks for a difference.
    """

    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
    seconds: float = field(default_factory=time.time)

    def __sub__(self, before: Metrics) -> Metrics:
        """What was counted since `before`; of gauges (running, waiting, slots) the value at the end.

        A counter that is smaller than before has begun anew, with its server, and counts from 0.
        """
        found = {}
        for key, value in self.values.items():
            earlier = 0.0 if key[0] in _GAUGES else before.values.get(key, 0.0)
            found[key] = value - earlier if value >= earlier else value
        return Metrics(found, self.seconds - before.seconds)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a family's samples that have these labels; 0 when there is none."""
        bare, wanted = _bare(name), set(labels.items())
        return sum(value for (found, having), value in self.values.items() if found == bare and wanted <= set(having))

    def models(self) -> list[str]:
        """Names of the models that have counted something."""
        return sorted({value for _, labels in self.values for name, value in labels if name == "model"})

    def model(self, name: str) -> ModelCounts:
        """What a model did: of `gptj`, which is decoupled, the times are those until a request was handed to the engine.

        From Triton's counters, mended where labkit knows better: `requests` are without those that labkit's models refused,
        which are among the `failures`; of `ensemble`, whose failures Triton counts twice, they are half of its number.
        """

        def count(family: str) -> int:
            return int(self.total(f"nv_inference_{family}", model=name))

        parts = {part: self.total(f"nv_inference_{part}_duration_us", model=name) / 1e6 for part in _PARTS}
        refused = sum(self.refused(name).values())
        failures = count("request_failure") // (2 if name == _ENSEMBLE else 1) + refused
        answered = max(0, count("request_success") - refused)  # the one is written each half second
        return ModelCounts(answered, failures, count("count"), count("exec_count"), parts)

    def refused(self, model: str | None = None) -> dict[str, int]:
        """Requests that ended with an error by reason (`refusals.REASONS`): of one of labkit's models, or of all."""
        labels = {} if model is None else {"model": model}
        found = {reason: int(self.total("labkit_refused_total", reason=reason, **labels)) for reason in REASONS}
        return {reason: count for reason, count in found.items() if count}

    def batch_sizes(self) -> dict[str, int]:
        """Steps of the engine by the number of sequences in them: "1", "2", "3-4", ..., "65+"; empty when none were counted."""
        edges: dict[float, float] = {}
        for (name, labels), value in self.values.items():
            if name == _BATCHES:
                edge = float(dict(labels)["le"].replace("Inf", "inf"))
                edges[edge] = edges.get(edge, 0.0) + value
        found, before, low = {}, 0.0, 1
        for edge in sorted(edges):
            if edge == float("inf"):
                label = f"{low}+"
            else:
                label = f"{int(edge)}" if edge == low else f"{low}-{int(edge)}"
                low = int(edge) + 1
            found[label] = round(edges[edge] - before)
            before = edges[edge]
        return found if before else {}

    def engine(self) -> EngineCounts:
        """What the engine of `gptj` counted, all its instances together."""
        gauges = {name: int(self.total(f"labkit_{name}")) for name in ("running", "waiting", "free_slots", "num_slots")}
        counters = {name: int(self.total(f"labkit_{name}_total")) for name in ("requests", "tokens", "steps")}
        return EngineCounts(**gauges, **counters, queue_seconds=self.total("labkit_queue_seconds_total"))


@dataclass(frozen=True)
class ModelCounts:
    """Of a model: requests answered and failed, inferences (prompts), and executions (batches) that they took.

    seconds: of all requests together, `queue`, `compute_input`, `compute_infer` and `compute_output`.
    """

    requests: int
    failures: int
    inferences: int
    executions: int
    seconds: Mapping[str, float]

    @property
    def mean_batch(self) -> float:
        """Inferences an execution; 0 without any."""
        return self.inferences / self.executions if self.executions else 0.0


@dataclass(frozen=True)
class EngineCounts:
    """Of the engine: sequences that run and wait, KV cache slots free and in all; requests, tokens, steps that made tokens.

    queue_seconds: of all requests together, from their coming to the beginning of the step that made their first token.
    """

    running: int
    waiting: int
    free_slots: int
    num_slots: int
    requests: int
    tokens: int
    steps: int
    queue_seconds: float

    @property
    def mean_batch(self) -> float:
        """Tokens a step; 0 without any."""
        return self.tokens / self.steps if self.steps else 0.0


def read_metrics(address: str, *, timeout: float = 5.0) -> Metrics:
    """A look at a server's metrics; address: HOST:PORT of its metrics port. The engine's own are half a second old at most.

    Raises `NotAvailable` when nothing answers there, or something else than metrics.
    """
    try:
        with open_url(f"http://{address}/metrics", timeout=timeout) as answer:
            text = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        raise NotAvailable(f"no metrics at http://{address}/metrics: {error}; give the server's metrics port") from None
    try:
        return parse_metrics(text)
    except InvalidRequest as error:
        raise NotAvailable(f"http://{address}/metrics answers, but not with metrics: {error}") from None


def parse_metrics(text: str) -> Metrics:
    """Metrics from Prometheus's text format. Raises `InvalidRequest` for what is none, `NotAvailable` without its library."""
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError as error:
        raise NotAvailable("prometheus_client is not installed; install labkit with its extra 'serve'") from error
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                values[_bare(sample.name), tuple(sorted(sample.labels.items()))] = float(sample.value)
    except (ValueError, IndexError, KeyError) as error:
        raise InvalidRequest(f"this is no text of Prometheus metrics: {error}") from None
    return Metrics(values)


def _bare(name: str) -> str:
    """Without `_total`, which Prometheus's library appends to every counter's name and Triton to none."""
    return name.removesuffix("_total")


def metrics_plot(metrics: Metrics, models: Iterable[str] = (), *, title: str = "In the server", caption: str = "") -> Figure:
    """Steps by the sequences in them, and where each model's requests spent their time: in the queue, or computing.

    metrics: best a difference of two looks. models: all that counted something if left out. gptj has its engine's queue, since
    Triton sees none. Raises `InvalidRequest` when nothing was counted.
    """
    from labkit.measure.figure import NotebookFigure
    from labkit.measure.plots import COLOURS, GREY

    sizes, names = metrics.batch_sizes(), list(models) or metrics.models()
    if not sizes and not names:
        raise InvalidRequest("the metrics count nothing; ask the server something between the two looks")
    figure = NotebookFigure(figsize=(8.0, 3.6), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.supxlabel(caption, fontsize=7, color=GREY, x=0.01, ha="left")
    batches, times = figure.subplots(1, 2)
    batches.bar(list(sizes), list(sizes.values()), color=COLOURS[0])
    batches.set(xlabel="sequences in a step", ylabel="steps of the engine")
    waits, works = zip(*(_queue_and_compute(metrics, name) for name in names), strict=True) if names else ((), ())
    times.barh(names, waits, color="#BBBBBB", label="queue")
    times.barh(names, works, left=waits, color=COLOURS[0], label="compute")
    times.invert_yaxis()
    times.set(xlabel="milliseconds a request")
    times.legend(fontsize=8)
    for axes in (batches, times):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _queue_and_compute(metrics: Metrics, name: str) -> tuple[float, float]:
    """Milliseconds a request."""
    counts = metrics.model(name)
    seconds: Any = dict(counts.seconds)
    wait = seconds.pop("queue")
    if name == "gptj":
        engine = metrics.engine()
        in_engine = 1e3 * engine.queue_seconds / max(1, engine.requests)
    else:
        in_engine = 0.0
    requests = max(1, counts.requests)
    return 1e3 * wait / requests + in_engine, 1e3 * sum(seconds.values()) / requests
