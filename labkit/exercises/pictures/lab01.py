"""Lab 01's drawings: a queue that fools a clock, and the positions that run with and without a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, INK, ORANGE, PALE, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def queue() -> Figure:
    """The host launches and goes on; the device works later. Two clocks: one stops too early, one waits."""
    canvas = Canvas("A launch returns before the work is done", 20.0, 7.6)
    for y, words in ((0.6, "host"), (2.2, "device")):
        canvas.text(0, y + 0.5, words, ha="left", size=11)
        canvas.axes.plot([2.4, 19.5], [y + 1.15] * 2, color="#999999", linewidth=0.8)
    canvas.box(3, 0.6, 1.2, 1, BLUE, "launch", size=8)
    canvas.box(4.2, 0.6, 12.8, 1, PALE, "synchronize(): the host waits for the device", ink=INK)
    canvas.arrow((4.1, 1.7), (4.9, 2.25))
    canvas.box(5, 2.2, 12, 1, ORANGE, "the work of the step")
    for end in (3, 4.2, 17):
        canvas.axes.plot([end, end], [0.3, 5.9 if end != 4.2 else 4.4], ":", color=INK, linewidth=1)
    canvas.bracket(3, 4.2, 4.3, "", tick=0.25)
    canvas.text(4.5, 4.2, "naive clock: read right after the launch", ha="left")
    canvas.bracket(3, 17, 5.8, "honest clock: read after synchronize()", tick=0.25)
    return canvas.figure


def positions(prompt: int = 4, new: int = 4) -> Figure:
    """The positions that run through the model in each step, without a cache and with one."""
    width = prompt + new - 1
    canvas = Canvas(f"{prompt} prompt tokens, {new} new tokens: what runs in each step", 2 * width + 6.5, new + 3.0)
    for side, (title, cached) in enumerate((("without a cache", False), ("with a cache", True))):
        left = 3.2 + side * (width + 1.6)
        canvas.text(left + width / 2, 0.5, title, size=11)
        for step in range(new):
            y = 1.1 + step
            if not side:
                canvas.text(0, y + 0.5, "prefill" if step == 0 else f"decode {step}", ha="left")
            for position in range(prompt + step):
                runs = not cached or step == 0 or position == prompt + step - 1
                colour = BLUE if position < prompt else ORANGE
                canvas.box(left + position, y, 1, 0.9, colour if runs else PALE, str(position), ink="white" if runs else INK)
    y = new + 1.5
    legend = [(BLUE, "prompt, runs"), (ORANGE, "new token, runs"), (PALE, "does not run: its keys and values are in the cache")]
    x = 0.0
    for colour, words in legend:
        canvas.box(x, y, 0.6, 0.6, colour)
        canvas.text(x + 0.8, y + 0.3, words, ha="left", size=8)
        x += 1.4 + 0.27 * len(words)
    return canvas.figure
