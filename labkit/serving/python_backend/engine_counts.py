"""Counters of an engine thread: its work since it was started, and the state of its engine at the latest reading."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Upper limits of the classes for the number of sequences in a step. Larger numbers are counted in one more class."""


@dataclass
class EngineThreadCounts:
    """The counters of one engine thread.

    requests: accepted prompts. tokens: generated tokens. steps: steps of the engine that generated tokens. batch_sizes: the
    number of these steps in each class of `BATCH_SIZES`. queue_seconds: summed over all requests, the time from the acceptance
    of a request to the beginning of the step that generated its first token. running, waiting: the current numbers of
    sequences. num_slots, free_slots: slots of the KV cache. step_ended_seconds: when the latest step of any kind ended.
    step_deadline_seconds: when the current step must end at the latest; 0 while there is no work. Both are in seconds since the
    epoch.
    """

    requests: int = 0
    tokens: int = 0
    steps: int = 0
    queue_seconds: float = 0.0
    batch_sizes: list[int] = field(default_factory=lambda: [0] * (len(BATCH_SIZES) + 1))
    running: int = 0
    waiting: int = 0
    num_slots: int = 0
    free_slots: int = 0
    step_ended_seconds: float = 0.0
    step_deadline_seconds: float = 0.0

    def count_step(self, sequences: int) -> None:
        """Count a step that generated one token for each of `sequences` sequences."""
        self.steps += 1
        self.tokens += sequences
        self.batch_sizes[bisect_left(BATCH_SIZES, sequences)] += 1
