"""Lab 01's drawings: why timing a queue goes wrong, and which positions are computed with and without a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREY, ORANGE, PALE, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def queue() -> Figure:
    """The host launches work and continues; the device does the work later.

    Two clocks are drawn: one clock stops too early, and the other clock waits for the device.
    """
    canvas = Canvas("A launch returns before the work is done", 20.0, 6.2)
    launched, returned, done = 3.0, 4.5, 17.0
    for y, name in ((0.3, "host"), (1.9, "device")):
        canvas.text(0, y + 0.5, name, ha="left", size=11)
        canvas.line((2.4, y + 1.15), (19.5, y + 1.15), colour=GREY)
    canvas.box(launched, 0.3, returned - launched, 1, BLUE, "launch")
    canvas.box(returned, 0.3, done - returned, 1, PALE, "synchronize(): the host waits for the device")
    canvas.arrow((4.4, 1.35), (5.1, 1.9))
    canvas.box(5.2, 1.9, done - 5.2, 1, ORANGE, "the work of the step")
    for x, end in ((launched, 5.4), (returned, 4.0), (done, 5.4)):
        canvas.line((x, 0.0), (x, end), style=":")
    canvas.bracket(launched, returned, 4.0)
    canvas.text(returned + 0.3, 3.9, "naive clock: read right after the launch", ha="left")
    canvas.bracket(launched, done, 5.4, "honest clock: read after synchronize()")
    return canvas.figure


def positions(prompt: int = 4, new: int = 4) -> Figure:
    """The positions that run through the model in each step, without a cache and with a cache."""
    width = prompt + new - 1
    canvas = Canvas(
        f"{prompt} prompt tokens, {new} new tokens: what runs in each step",
        2 * width + 5.0,
        new + 1.0,
        caption="Blue: a prompt token that runs. Orange: a new token that runs. Grey: a token that does not run, because its "
        "keys and values are in the cache.",
    )
    for side, (title, cached) in enumerate((("without a cache", False), ("with a cache", True))):
        left = 3.2 + side * (width + 1.6)
        canvas.text(left + width / 2, 0.4, title, size=11)
        for step in range(new):
            y = 0.9 + step
            if not side:
                canvas.text(0, y + 0.45, "prefill" if step == 0 else f"decode {step}", ha="left")
            for position in range(prompt + step):
                runs = not cached or step == 0 or position == prompt + step - 1
                colour = BLUE if position < prompt else ORANGE
                canvas.box(left + position, y, 1, 0.9, colour if runs else PALE, str(position))
    return canvas.figure
