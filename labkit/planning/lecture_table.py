"""The lecture's table "Inference benchmarks": the smallest and the largest p99 latency of five models."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.fit import Fit
from labkit.planning.memory import fits
from labkit.planning.named_shapes import named_shape

INPUT_TOKENS, OUTPUT_TOKENS = 60, 20
BATCHES = tuple(2**power for power in range(9))
LAYOUTS = {
    "gpt-1.3b": ((1, 1), (2, 1), (4, 1), (8, 1)),
    "gpt-5b": ((1, 1), (2, 1), (4, 1), (8, 1)),
    "gpt-20b": ((1, 1), (2, 1), (4, 1), (8, 1)),
    "gpt-175b": ((8, 1), (16, 1), (32, 1), (8, 2), (8, 4)),
    "gpt-530b": ((16, 1), (32, 1), (8, 3)),
}
"""The layouts (TP, PP) with as many GPUs as on the slide. The slide does not say which layouts were measured."""
SLIDE_MS = {
    "gpt-1.3b": (74, 437),
    "gpt-5b": (94, 1143),
    "gpt-20b": (230, 4146),
    "gpt-175b": (649, 5731),
    "gpt-530b": (1054, 8326),
}
"""The smallest and the largest p99 in milliseconds, over batch sizes of 1 to 256, for 60 input and 20 output tokens."""


@dataclass(frozen=True)
class LectureRow:
    """One model of the slide: its smallest and largest p99 in seconds, and the predictions for these two latencies."""

    model: str
    least: float
    largest: float
    predicted_least: float
    predicted_largest: float

    @property
    def seconds(self) -> tuple[float, float, float, float]:
        """Four latencies in this order: smallest, predicted smallest, largest, predicted largest."""
        return self.least, self.predicted_least, self.largest, self.predicted_largest


def lecture_rows(found: Fit, gpu: str = "a100-80gb") -> list[LectureRow]:
    """The slide's rows with the predictions of a fit. Only layouts and batch sizes that fit into the memory are used."""
    rows = []
    for model, layouts in LAYOUTS.items():
        shape, device = named_shape(model), named_gpu(gpu)
        plans = [
            Deployment(shape, device, tensor, stages, "fp16", batch, INPUT_TOKENS, OUTPUT_TOKENS)
            for tensor, stages in layouts
            for batch in BATCHES
        ]
        seconds = [found.predict(plan).seconds for plan in plans if fits(plan)]
        least, largest = (value / 1e3 for value in SLIDE_MS[model])
        rows.append(LectureRow(model, least, largest, min(seconds), max(seconds)))
    return rows
