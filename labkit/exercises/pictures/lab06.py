"""Lab 06's drawings: the lecture's pruned network, a 2:4 row, the layers of a student, and a guess that is checked."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, GREY, ORANGE, PALE, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 0.5
"""The side of a square in the drawing of networks."""


def connections(inputs: int = 6, hidden: int = 4, outputs: int = 2, pruned: int = 1) -> Figure:
    """The lecture's network with all neurons, and without `pruned` hidden ones. Each neuron reads the whole layer before it."""
    caption = "Blue: inputs. Orange: hidden neurons. Green: outputs. Removing a neuron removes all of its connections."
    canvas = Canvas("Removing a neuron", 12.0, 5.2, caption=caption, inches=7.4)
    for left, kept in ((0.6, hidden), (6.9, hidden - pruned)):
        layers = ((inputs, BLUE), (kept, ORANGE), (outputs, GREEN))
        places = [
            [(left + 2.0 * column, 1.0 + 4.0 * (row + 0.5) / count) for row in range(count)]
            for column, (count, _) in enumerate(layers)
        ]
        for before, after in itertools.pairwise(places):
            for x, y in before:
                for end, height in after:
                    canvas.line((x + SIZE, y), (end, height), colour=GREY)
        for (_, colour), column in zip(layers, places, strict=True):
            for x, y in column:
                canvas.box(x, y - SIZE / 2, SIZE, SIZE, colour)
        count = kept * (inputs + outputs)
        canvas.text(left + 2.25, 0.4, f"{kept + outputs} neurons, {count} connections")
    return canvas.figure


def two_four(scores: tuple[int, ...] = (7, 1, 2, 9, 3, 8, 6, 5)) -> Figure:
    """A row of scores, the scores that a 2:4 mask keeps, and the stored bits: four bits per group, for the kept places."""
    caption = "Blue: kept. Hatched: pruned. Places count from 0 within each group of four, and take two bits each."
    count = len(scores)
    canvas = Canvas("Two of every four", count + 3.2, 3.3, caption=caption, inches=7.4)
    left = 2.6
    canvas.text(0, 0.8, "scores", ha="left")
    canvas.text(0, 2.5, "places", ha="left")
    for begin in range(0, count, 4):
        four = scores[begin : begin + 4]
        kept = sorted(sorted(range(4), key=lambda place: (-four[place], place))[:2])
        for place, score in enumerate(four):
            x = left + begin + place + 0.2 * (begin // 4)
            canvas.box(x, 0.4, 0.9, 0.8, BLUE if place in kept else PALE, str(score), hatched=place not in kept)
            canvas.text(x + 0.45, 1.5, str(place))
        middle = left + begin + 0.2 * (begin // 4) + 1.95
        bits = f"{kept[1]:02b} {kept[0]:02b}"
        canvas.box(middle - 1.5, 2.1, 3.0, 0.8, ORANGE, f"{kept[0]} and {kept[1]}: bits {bits}")
    return canvas.figure


def every_second(teacher: int = 8, layers: int = 4) -> Figure:
    """The layers of a teacher, and the copies of them that a student begins with."""
    every = teacher // layers
    caption = "Blue: copied. The last layer of the student is the last of the teacher, because the head reads what it makes."
    canvas = Canvas(f"A student with {layers} of {teacher} layers", 1.1 * teacher + 2.2, 3.4, caption=caption, inches=7.8)
    canvas.text(0, 0.8, "teacher", ha="left")
    canvas.text(0, 2.7, "student", ha="left")
    for layer in range(teacher):
        x = 2.0 + 1.1 * layer
        is_copied = (layer + 1) % every == 0
        canvas.box(x, 0.4, 0.9, 0.8, BLUE if is_copied else PALE, str(layer))
        if is_copied:
            canvas.arrow((x + 0.45, 1.3), (x + 0.45, 2.2))
            canvas.box(x, 2.3, 0.9, 0.8, BLUE, str((layer + 1) // every - 1))
    return canvas.figure


def accept(draft: tuple[float, ...] = (0.6, 0.3, 0.1), target: tuple[float, ...] = (0.3, 0.5, 0.2)) -> Figure:
    """Bars of two distributions. Guesses in their overlap are accepted; after a rejection, a token is drawn from the target's
    excess over the draft.
    """
    caption = (
        "Blue: what draft and target share; such guesses are accepted. Hatched: what only the draft has; these guesses are "
        "rejected. Orange: what only the target has; a token is drawn from it in their place."
    )
    shared = sum(min(p, q) for p, q in zip(draft, target, strict=True))
    title = f"{shared:.0%} of the guesses are accepted"
    canvas = Canvas(title, 2.6 * len(target) + 0.4, 3.9, caption=caption, inches=6.6)
    unit = 2.8 / max(*draft, *target)
    for token, (p, q) in enumerate(zip(draft, target, strict=True)):
        x, both = 0.4 + 2.6 * token, min(p, q)
        canvas.box(x, 3.0 - unit * both, 1.8, unit * both, BLUE)
        if p != q:
            canvas.box(x, 3.0 - unit * max(p, q), 1.8, unit * abs(p - q), ORANGE, hatched=p > q)
        canvas.text(x + 0.9, 3.3, f"token {token}")
        canvas.text(x + 0.9, 3.65, f"{p:g} → {q:g}")
    return canvas.figure
