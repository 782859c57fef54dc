"""Lab 00's drawings: what a KV cache holds, and why a step takes the longer of reading and computing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, INK, ORANGE, PINK, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def kv_cache(lengths: tuple[int, ...] = (6, 3, 8), layers: int = 4) -> Figure:
    """The cache of a batch: one square per token of each sequence, and what is in one square."""
    canvas = Canvas("A KV cache: one square per token of every sequence", 19.0, 2.2 + 1.5 * len(lengths))
    for row, length in enumerate(lengths):
        y = 1.3 + 1.5 * row
        canvas.text(0, y + 0.5, f"sequence {row}", ha="left")
        for token in range(length):
            newest = token == length - 1
            canvas.box(2.6 + token, y, 1, 1, ORANGE if newest else BLUE, str(token))
    canvas.text(2.6, 1.5 * len(lengths) + 1.6, "orange: the newest token, added by this step", ha="left", size=9)
    x, y = 13.4, 1.3
    canvas.text(x + 2.2, 0.6, "inside one square", size=10)
    for layer in range(layers):
        at = y + 0.85 * layer
        canvas.text(x - 0.2, at + 0.35, f"layer {layer}", ha="right", size=8)
        canvas.box(x, at, 2.1, 0.7, GREEN, "key", size=9)
        canvas.box(x + 2.3, at, 2.1, 0.7, PINK, "value", size=9)
    end = y + 0.85 * layers + 0.1
    canvas.bracket(x, x + 2.1, end, "hidden_size", tick=0.15)
    canvas.bracket(x + 2.3, x + 4.4, end, "hidden_size", tick=0.15)
    return canvas.figure


def overlap() -> Figure:
    """Reading and computing at the same time, in a decode step and in a prefill; the step ends with the longer of the two."""
    canvas = Canvas("A step reads and computes at the same time; it takes as long as the longer of the two", 20.0, 8.4)
    phases = [("decode", 6.0, 0.9, "bound by memory"), ("prefill", 6.0, 13.5, "bound by compute")]
    for row, (phase, read, compute, bound) in enumerate(phases):
        y = 0.8 + 3.9 * row
        canvas.text(0, y + 1.0, phase, ha="left", size=11)
        canvas.box(3.8, y, read, 0.9, BLUE, "read the weights", size=9)
        canvas.box(3.8, y + 1.1, compute, 0.9, ORANGE, "multiply" if compute > 3 else "", size=9)
        canvas.text(3.6, y + 0.45, "read", ha="right", size=8)
        canvas.text(3.6, y + 1.55, "compute", ha="right", size=8)
        end = 3.8 + max(read, compute)
        canvas.axes.plot([end, end], [y - 0.3, y + 2.5], "--", color=INK, linewidth=1.2)
        canvas.text(end, y + 2.85, f"the step ends: {bound}", size=9)
    return canvas.figure
