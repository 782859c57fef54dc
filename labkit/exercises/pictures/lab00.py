"""Lab 00's drawings: the contents of a KV cache, and why a step takes as long as the longer of reading and computing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, ORANGE, PINK, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def kv_cache(lengths: tuple[int, ...] = (6, 3, 8), layers: int = 4) -> Figure:
    """The cache of a batch: one square per token of each sequence, and the contents of one square."""
    x, y = 2.6 + max(lengths) + 2.8, 1.0
    canvas = Canvas(
        "A KV cache: one square per token of every sequence",
        x + 4.8,
        y + max(1.5 * len(lengths), 0.85 * layers + 1.0),
        caption="Orange: the newest token, added by this step.",
    )
    for row, length in enumerate(lengths):
        canvas.text(0, y + 1.5 * row + 0.5, f"sequence {row}", ha="left")
        for token in range(length):
            is_newest = token == length - 1
            canvas.box(2.6 + token, y + 1.5 * row, 1, 1, ORANGE if is_newest else BLUE, str(token))
    canvas.text(x + 2.2, 0.4, "inside one square", size=10)
    for layer in range(layers):
        top = y + 0.85 * layer
        canvas.text(x - 0.2, top + 0.35, f"layer {layer}", ha="right")
        canvas.box(x, top, 2.1, 0.7, GREEN, "key")
        canvas.box(x + 2.3, top, 2.1, 0.7, PINK, "value")
    end = y + 0.85 * layers + 0.2
    canvas.bracket(x, x + 2.1, end, "hidden_size")
    canvas.bracket(x + 2.3, x + 4.4, end, "hidden_size")
    return canvas.figure


def overlap() -> Figure:
    """A decode step and a prefill, which read and compute at the same time. A step ends when both reading and computing end."""
    canvas = Canvas("A step reads and computes at the same time; it takes as long as the longer of the two", 20.6, 7.3)
    phases = [("decode", 6.0, 0.9, "bound by memory"), ("prefill", 6.0, 13.5, "bound by compute")]
    for row, (phase, read, compute, bound) in enumerate(phases):
        y = 0.4 + 3.8 * row
        canvas.text(0, y + 1.0, phase, ha="left", size=11)
        canvas.box(3.8, y, read, 0.9, BLUE, "read the weights")
        canvas.box(3.8, y + 1.1, compute, 0.9, ORANGE, "multiply" if compute > 3 else "")
        canvas.text(3.6, y + 0.45, "read", ha="right")
        canvas.text(3.6, y + 1.55, "compute", ha="right")
        end = 3.8 + max(read, compute)
        canvas.line((end, y - 0.3), (end, y + 2.4), style="--")
        canvas.text(end, y + 2.75, f"the step ends: {bound}")
    return canvas.figure
