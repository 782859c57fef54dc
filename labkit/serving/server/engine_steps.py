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
class EngineStep:
    """Two times of one engine, in seconds since the epoch, by the clock of the server's machine.

    ended: when the latest step ended; 0 if none has ended. deadline: when the current step must end at the latest; 0 if the
    engine has no work. A step gets `request_seconds`: if it takes longer, all its requests have passed their own deadline.
    """

    ended: float
    deadline: float

    def hangs(self, since: float) -> bool:
        """Whether the engine has work, its step should have ended by now, and no step has ended since the time `since`."""
        return 0 < self.deadline < time.time() and self.ended < since


def steps_in(metrics: Metrics) -> list[EngineStep]:
    """The steps of all engines in these metrics; an empty list if the server has no engine of labkit's."""
    ended = {labels: value for (name, labels), value in metrics.values.items() if name == _ENDED}
    return [EngineStep(value, metrics.values.get((_DEADLINE, labels), 0.0)) for labels, value in ended.items()]


def read_steps(address: str, seconds: float) -> list[EngineStep] | None:
    """Read the latest steps of a server's engines; the values are at most half a second old.

    address: HOST:PORT of the metrics; may be empty. seconds: the time limit. Returns None if the metrics cannot be read, and an
    empty list if the server has no engine of labkit's.
    """
    try:
        return steps_in(read_metrics(address, timeout=seconds)) if address else None
    except NotAvailable:
        return None
