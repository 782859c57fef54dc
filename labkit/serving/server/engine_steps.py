"""The latest steps of a server's engines, from the server's metrics: whether an engine works, has nothing to do, or hangs.

Triton counts a request to `gptj` or `fastertransformer` as a success when the request has entered the engine's queue. This
count also rises while the engine hangs, so only the engine's steps show that requests are being answered.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.serving.metrics import Metrics, read_metrics

_ENDED, _DEADLINE = "labkit_step_ended_seconds", "labkit_step_deadline_seconds"


@dataclass(frozen=True)
class EngineSteps:
    """Times of all engines of a server, in seconds since the epoch, by the clock of the server's machine.

    ended: when the latest step ended; 0 if none has ended. deadlines: for each engine that has work, when its current step must
    have ended. A step that takes longer than `request_seconds` is of no use: all its requests have passed their deadline.
    """

    ended: float
    deadlines: tuple[float, ...]

    @property
    def hang(self) -> bool:
        """Whether the current step of an engine should have ended by now."""
        return any(deadline < time.time() for deadline in self.deadlines)


def steps_in(metrics: Metrics) -> EngineSteps | None:
    """The steps that are in these metrics; None if the server has no engine."""
    named = [(name, value) for (name, _), value in metrics.values.items()]
    ended = [value for name, value in named if name == _ENDED]
    if not ended:
        return None
    return EngineSteps(max(ended), tuple(value for name, value in named if name == _DEADLINE and value))


def read_steps(address: str, seconds: float) -> EngineSteps | None:
    """Read the steps of a server's engines, which are at most half a second old.

    address: HOST:PORT of the metrics; may be empty. seconds: the time limit. Returns None if the metrics cannot be read, or if
    the server has no engine.
    """
    try:
        return steps_in(read_metrics(address, timeout=seconds)) if address else None
    except NotAvailable:
        return None
