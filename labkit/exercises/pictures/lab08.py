"""Lab 08's drawings: what 2:4 sparsity stores, and how tensor and pipeline parallelism share a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, GREY, ORANGE, PALE, PINK, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WEIGHTS = (0.9, 0.0, 0.0, -0.4, 0.0, 0.7, 0.2, 0.0)
"""Two groups of four weights. In each group, two weights are not 0."""
ROW = 1.6
"""The height of a stage in the drawing."""
STAGES = (BLUE, ORANGE, GREEN, PINK)


def two_of_four(weights: tuple[float, ...] = WEIGHTS) -> Figure:
    """A row of weights with two zeros in each group of four, and the numbers that are stored: values, and indexes of 2 bits."""
    kept = [(number, weight) for number, weight in enumerate(weights) if weight]
    caption = "An index says at which of the four places of its group a value was: 0 to 3, in 2 bits."
    canvas = Canvas(f"{len(weights)} weights, {len(kept)} stored values", 10.4, 3.4, caption=caption, inches=8.0)
    canvas.text(1.9, 0.6, "weights", ha="right")
    for number, weight in enumerate(weights):
        colour = (BLUE, ORANGE)[number // 4 % 2] if weight else PALE
        canvas.box(2.2 + number, 0.25, 1, 0.7, colour, f"{weight:g}")
    canvas.text(1.9, 1.95, "values", ha="right")
    canvas.text(1.9, 2.75, "indexes", ha="right")
    for place, (number, weight) in enumerate(kept):
        left, colour = 2.2 + 2 * place + 0.5, (BLUE, ORANGE)[number // 4 % 2]
        canvas.line((2.7 + number, 0.98), (left + 0.5, 1.58), colour=GREY)
        canvas.box(left, 1.6, 1, 0.7, colour, f"{weight:g}")
        canvas.box(left, 2.5, 1, 0.5, PALE, f"{number % 4:02b}")
    return canvas.figure


def division(tensor: int = 4, stages: int = 2, layers: int = 44) -> Figure:
    """The GPUs of a plan, with a row for each pipeline stage. The GPUs of a row are shards, which share each of its layers."""
    caption = (
        "Across a row, GPUs add up their results in each layer: an all-reduce in a ring. Down, each GPU of a stage sends its "
        "part of the hidden states to the next stage."
    )
    title = f"TP {tensor} x PP {stages}: {tensor * stages} GPUs"
    canvas = Canvas(title, 3.4 + 1.7 * tensor, 0.5 + ROW * stages, caption=caption, inches=8.0)
    each = layers // stages
    for stage in range(stages):
        top = 0.5 + ROW * stage
        canvas.text(0.1, top + 0.25, f"stage {stage}", ha="left", weight="bold")
        canvas.text(0.1, top + 0.6, f"layers {stage * each} to {(stage + 1) * each - 1}", ha="left")
        for shard in range(tensor):
            left = 3.0 + 1.7 * shard
            canvas.box(left, top, 1.3, 0.85, STAGES[stage % len(STAGES)], f"1/{tensor} of each")
            if shard + 1 < tensor:
                canvas.line((left + 1.3, top + 0.42), (left + 1.7, top + 0.42))
            if stage + 1 < stages:
                canvas.arrow((left + 0.4, top + 0.87), (left + 0.4, top + ROW - 0.02))
        if tensor > 2:  # the last GPU of the ring sends to the first
            first, last, above = 3.65, 3.65 + 1.7 * (tensor - 1), top - 0.2
            for start, end in (((first, top), (first, above)), ((first, above), (last, above)), ((last, above), (last, top))):
                canvas.line(start, end)
    return canvas.figure
