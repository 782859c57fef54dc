"""What an engine host has done since it was made, and how its engine stood a moment ago."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""Upper ends of the classes in which the sequences of a step are counted; one more class has the larger ones."""


@dataclass
class HostCounts:
    """requests: taken in. tokens: made. steps: of the engine that made tokens, and batch_sizes: how many of them had how many
    sequences, by the classes of `BATCH_SIZES`. queue_seconds: of all requests, from when one was taken in to the beginning of
    the step that made its first token. running, waiting: sequences; num_slots, free_slots: of the KV cache.
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

    def count_step(self, sequences: int) -> None:
        """A step made a token for each of so many sequences."""
        self.steps += 1
        self.tokens += sequences
        self.batch_sizes[bisect_left(BATCH_SIZES, sequences)] += 1
