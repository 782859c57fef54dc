"""Reads a server's Prometheus metrics: what its models did since the start, or between two readings.

The counters:

| counter | counts |
| --- | --- |
| `labkit_requests_total` | prompts that the engine has accepted |
| `labkit_refused_total{model,reason}` | requests that ended with an error; `refusals.REASONS` explains the reasons |
| `labkit_tokens_total`, `labkit_steps_total`, `labkit_batch_size_bucket` | generated tokens; steps; sequences per step |
| `nv_inference_request_success{model}` | requests that the model's code accepted, *and requests that it refused* |
| `nv_inference_request_failure{model}` | requests in which the model's code crashed; requests to an ensemble *count twice* |

`labkit_step_ended_seconds` and `labkit_step_deadline_seconds` are times: when an engine's latest step ended, and when its
current step must end at the latest (0 without work). The watchdog reads them to find an engine that hangs.

labkit's counters leave out the watchdog's probes. A refused request to an ensemble counts once, for the step that refused it.
The `nv_` counters are Triton's own (version 2.51) and include the watchdog's probes. Triton counts a request when the call to
the model's code returns, and ignores the answer, so the model's code cannot correct these counters. Requests that Triton itself
refuses (an unknown input, a wrong data type) reach no model and are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.channels import open_url
from labkit.serving.refusals import REASONS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAUGES = (
    "labkit_running",
    "labkit_waiting",
    "labkit_free_slots",
    "labkit_num_slots",
    "labkit_step_ended_seconds",
    "labkit_step_deadline_seconds",
    "nv_inference_pending_request_count",
)
"""Metrics that hold a current value; all other metrics count from the start of the server."""

_ENSEMBLE = "ensemble"
_BATCHES = "labkit_batch_size_bucket"
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Metrics:
    """One reading of the metrics, or the difference between two readings.

    values: the value of each sample. A key is the sample's name without `_total`, and its sorted labels, such as
    `("model", "gptj")`. seconds: for one reading, the time since the epoch; for a difference, the time between the readings.
    """

    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
    seconds: float = field(default_factory=time.time)

    def __sub__(self, before: Metrics) -> Metrics:
        """The counts since the reading `before`. Gauges (running, waiting, slots) keep their newer value.

        If a counter is smaller than before, the server was restarted, and the counter is assumed to have started from 0.
        """
        found = {}
        for key, value in self.values.items():
            earlier = 0.0 if key[0] in _GAUGES else before.values.get(key, 0.0)
            found[key] = value - earlier if value >= earlier else value
        return Metrics(found, self.seconds - before.seconds)

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples with this name and these labels; 0 if there are no such samples."""
        bare, wanted = _bare(name), set(labels.items())
        return sum(value for (found, having), value in self.values.items() if found == bare and wanted <= set(having))

    def models(self) -> list[str]:
        """Names of the models that have counters."""
        return sorted({value for _, labels in self.values for name, value in labels if name == "model"})

    def model(self, name: str) -> ModelCounts:
        """The work of one model, from Triton's counters with two corrections.

        Requests that labkit's models refused count as failures, not as requests. Failures of `ensemble`, which Triton counts
        twice, count once. A request to `gptj` or `fastertransformer` counts as soon as it is passed to the engine, and its
        times end then. So requests that still wait or run are included.
        """

        def count(family: str) -> int:
            return int(self.total(f"nv_inference_{family}", model=name))

        parts = {part: self.total(f"nv_inference_{part}_duration_us", model=name) / 1e6 for part in _PARTS}
        refused = sum(self.refused(name).values())
        failures = count("request_failure") // (2 if name == _ENSEMBLE else 1) + refused
        answered = max(0, count("request_success") - refused)  # the two counters are updated at different times
        return ModelCounts(answered, failures, count("count"), count("exec_count"), parts)

    def refused(self, model: str | None = None) -> dict[str, int]:
        """The number of requests that ended with an error, by reason (`refusals.REASONS`). model: all models if None."""
        labels = {} if model is None else {"model": model}
        found = {reason: int(self.total("labkit_refused_total", reason=reason, **labels)) for reason in REASONS}
        return {reason: count for reason, count in found.items() if count}

    def batch_sizes(self) -> dict[str, int]:
        """Number of steps for each number of sequences per step: "1", "2", "3-4", ..., "65+"; empty if there were no steps."""
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
        """The counters of `gptj`'s engine, summed over its instances."""
        gauges = {name: int(self.total(f"labkit_{name}")) for name in ("running", "waiting", "free_slots", "num_slots")}
        counters = {name: int(self.total(f"labkit_{name}_total")) for name in ("requests", "tokens", "steps")}
        return EngineCounts(**gauges, **counters, queue_seconds=self.total("labkit_queue_seconds_total"))


@dataclass(frozen=True)
class ModelCounts:
    """The counts of one model: answered requests, failed requests, inferences (prompts) and executions (batches).

    seconds: summed over all requests, the times `queue`, `compute_input`, `compute_infer` and `compute_output`.
    """

    requests: int
    failures: int
    inferences: int
    executions: int
    seconds: Mapping[str, float]

    @property
    def mean_batch(self) -> float:
        """Inferences per execution; 0 if there were no executions."""
        return self.inferences / self.executions if self.executions else 0.0


@dataclass(frozen=True)
class EngineCounts:
    """The state and counters of the engine.

    running, waiting: sequences. free_slots, num_slots: slots of the KV cache. steps: steps that generated tokens.
    queue_seconds: summed over all requests, the time from arrival to the beginning of the step that generated the first token.
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
        """Tokens per step; 0 if there were no steps."""
        return self.tokens / self.steps if self.steps else 0.0


def read_metrics(address: str, *, timeout: float = 5.0) -> Metrics:
    """Read a server's metrics. The engine's own counters are at most half a second old.

    address: HOST:PORT of the metrics. Raises `NotAvailable` if nothing answers at `address`, or if the answer does not contain
    metrics.
    """
    try:
        with open_url(f"http://{address}/metrics", timeout=timeout) as answer:
            text = answer.read().decode("utf-8", "replace")
    except (OSError, ValueError, HTTPException) as error:  # HTTPException: another protocol, or an answer that is cut off
        raise NotAvailable(f"no metrics at http://{address}/metrics: {error}; give the server's metrics port") from None
    try:
        return parse_metrics(text)
    except InvalidRequest as error:
        raise NotAvailable(f"http://{address}/metrics answers, but not with metrics: {error}") from None


def parse_metrics(text: str) -> Metrics:
    """Parse Prometheus's text format. Raises `InvalidRequest` for other text, `NotAvailable` without prometheus_client."""
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
        raise InvalidRequest(f"this is not the text of Prometheus metrics: {error}") from None
    return Metrics(values)


def _bare(name: str) -> str:
    """The name without `_total`: the Prometheus library appends `_total` to every counter's name, but Triton does not."""
    return name.removesuffix("_total")


def metrics_plot(metrics: Metrics, models: Iterable[str] = (), *, title: str = "In the server", caption: str = "") -> Figure:
    """Draw two bar charts: steps by their number of sequences, and the time per request in the queue and in computation.

    metrics: usually the difference between two readings. models: all models with counters if left out. For `gptj` the time in
    the queue comes from the engine, because Triton does not know this time. Raises `InvalidRequest` if nothing was counted.
    """
    from labkit.measure.plots import COLOURS, new_figure

    sizes, names = metrics.batch_sizes(), list(models) or metrics.models()
    if not sizes and not names:
        raise InvalidRequest("the metrics count nothing; send requests to the server between the two readings")
    figure = new_figure(title, caption, width=8.0, height=3.6)
    batches, times = figure.subplots(1, 2)
    batches.bar(list(sizes), list(sizes.values()), color=COLOURS[0])
    batches.set(xlabel="sequences in a step", ylabel="steps of the engine")
    waits, works = zip(*(_queue_and_compute(metrics, name) for name in names), strict=True) if names else ((), ())
    times.barh(names, waits, color="#BBBBBB", label="queue")
    times.barh(names, works, left=waits, color=COLOURS[0], label="compute")
    times.invert_yaxis()
    times.set(xlabel="milliseconds per request")
    times.legend(fontsize=8)
    for axes in (batches, times):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _queue_and_compute(metrics: Metrics, name: str) -> tuple[float, float]:
    """Milliseconds per request in the queue and in computation."""
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
