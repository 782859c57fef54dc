"""Publishes an engine's counters on Triton's metrics endpoint. Triton itself does not know the engine's queue and batches.

The watchdog's probes are left out of all counters; only the gauges include them.
"""

from __future__ import annotations

import contextlib
import threading
from itertools import accumulate
from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.serving.python_backend.engine_counts import BATCH_SIZES, EngineThreadCounts

PUBLISH_SECONDS = 0.5

GAUGES = {
    "running": "running sequences",
    "waiting": "waiting sequences",
    "num_slots": "slots of the KV cache; each holds one token",
    "free_slots": "free slots of the KV cache",
    "step_ended_seconds": "when the latest step ended, in seconds since the epoch; 0 before the first step",
    "step_deadline_seconds": "when the current step must end at the latest, in seconds since the epoch; 0 without work",
}
COUNTERS = {
    "requests": "accepted prompts",
    "tokens": "generated tokens",
    "steps": "steps of the engine that generated tokens",
    "queue_seconds": "seconds from a prompt's arrival to the step that generated its first token",
}


class EngineMetrics:
    """A thread that publishes the counts of an engine thread as `labkit_...`, for one instance of a model."""

    def __init__(self, counts: EngineThreadCounts, instance: str) -> None:
        self._counts = counts
        self._labels = {"instance": instance}
        self._families: list[Any] = []
        gauge, counter = pb_utils.MetricFamily.GAUGE, pb_utils.MetricFamily.COUNTER
        self._gauges = {name: self._metric(name, words, gauge) for name, words in GAUGES.items()}
        self._counters = {name: self._metric(f"{name}_total", words, counter) for name, words in COUNTERS.items()}
        words = "steps that generated tokens for at most this many sequences"
        self._buckets = self._family("batch_size_bucket", words, counter)
        edges = [*map(str, BATCH_SIZES), "+Inf"]
        self._sizes = [self._buckets.Metric(labels=self._labels | {"le": edge}) for edge in edges]
        self._published: dict[Any, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop publishing."""
        self._ended.set()
        self._thread.join()

    def _family(self, name: str, words: str, kind: Any) -> Any:
        return pb_utils.MetricFamily(name=f"labkit_{name}", description=words, kind=kind)

    def _metric(self, name: str, words: str, kind: Any) -> Any:
        family = self._family(name, words, kind)
        metric = family.Metric(labels=self._labels)
        self._families.append(family)  # deleting a family of metrics also deletes its metrics
        return metric

    def _run(self) -> None:
        while not self._ended.wait(PUBLISH_SECONDS):
            with contextlib.suppress(Exception):  # the server's shared memory may be full; the next round publishes the rest
                self._publish()

    def _publish(self) -> None:
        for name, gauge in self._gauges.items():
            self._set(gauge, float(getattr(self._counts, name)))
        for name, counter in self._counters.items():
            self._raise(counter, float(getattr(self._counts, name)))
        for bucket, count in zip(self._sizes, accumulate(self._counts.batch_sizes), strict=True):
            self._raise(bucket, float(count))

    def _set(self, metric: Any, value: float) -> None:
        """Publish a value only if it has changed, because each call waits for the server's process."""
        if self._published.get(metric) != value:
            metric.set(value)
            self._published[metric] = value

    def _raise(self, metric: Any, value: float) -> None:
        before = self._published.get(metric, 0.0)
        if value > before:
            metric.increment(value - before)
            self._published[metric] = value
