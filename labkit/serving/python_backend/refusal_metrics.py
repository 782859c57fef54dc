"""Publishes `labkit_refused_total` on Triton's metrics endpoint: the requests of one model that ended with an error.

Triton itself counts a request as a success as soon as the model's code has accepted it, even if the model then answers with an
error.
"""

from __future__ import annotations

import contextlib
import threading

import triton_python_backend_utils as pb_utils

from labkit.serving.refusals import REASONS, Refusals

PUBLISH_SECONDS = 0.5


class RefusalMetrics(Refusals):
    """Counts refusals. A separate thread publishes the counts, because each call to a metric waits for the server."""

    def __init__(self, model: str, instance: str) -> None:
        super().__init__()
        words = "requests that ended with an error, by the model that refused them and the reason"
        self._family = pb_utils.MetricFamily(name="labkit_refused_total", description=words, kind=pb_utils.MetricFamily.COUNTER)
        labels = {"model": model, "instance": instance}
        self._metrics = {reason: self._family.Metric(labels=labels | {"reason": reason}) for reason in REASONS}
        self._published = dict.fromkeys(REASONS, 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="labkit refusals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop publishing."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PUBLISH_SECONDS):
            with contextlib.suppress(Exception):  # the server's shared memory may be full; the next round publishes the rest
                for reason, metric in self._metrics.items():
                    if new := self.counts[reason] - self._published[reason]:
                        metric.increment(new)
                        self._published[reason] += new
