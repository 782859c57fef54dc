"""Lab 03's drawings: a weight that is cut in two ways, an all-reduce in a ring, and the timetable of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREY, ORANGE, PALE, Canvas
from labkit.measure.plots import COLOURS, ink_on
from labkit.plurals import counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = (BLUE, ORANGE)
"""The colours of rank 0 and rank 1."""


def two_cuts() -> Figure:
    """`F.linear(x, weight)` on two ranks: on the left, the weight is cut by output features; on the right, by input features.

    `x` is drawn above the columns of the weight, and the output beside the rows of the weight. Parts of the same colour belong
    to the same rank.
    """
    caption = "Blue: rank 0. Orange: rank 1. Grey: whole, on both ranks. Each output is one row of weight times x."
    canvas = Canvas("One weight, cut in two ways", 7.0, 2.5, caption=caption, inches=7.0)
    canvas.text(1.3, 0.1, "by output features (3.1)", weight="bold")
    canvas.box(0.5, 0.4, 1.6, 0.25, PALE, "x")
    for rank, colour in enumerate(RANKS):
        canvas.box(0.5, 0.85 + 0.7 * rank, 1.6, 0.7, colour, "rows of weight")
        canvas.box(2.35, 0.85 + 0.7 * rank, 0.25, 0.7, colour)
    canvas.text(2.47, 2.4, "output: one share per rank")
    canvas.text(0.3, 1.55, "out", rotation=90)
    canvas.text(1.3, 2.4, "in")
    canvas.text(5.0, 0.1, "by input features (3.2)", weight="bold")
    for rank, colour in enumerate(RANKS):
        canvas.box(3.5 + 0.8 * rank, 0.4, 0.8, 0.25, colour, "x")
        canvas.box(3.5 + 0.8 * rank, 0.85, 0.8, 1.4, colour, "columns")
        canvas.box(5.35 + 0.55 * rank, 0.85, 0.25, 1.4, colour)
    canvas.text(5.75, 1.55, "+", size=14)
    canvas.text(6.3, 1.55, "=", size=14)
    canvas.box(6.45, 0.85, 0.25, 1.4)
    canvas.text(5.95, 2.4, "parts of every sum: add up")
    return canvas.figure


def ring_sums(ranks: int = 4) -> list[list[list[int]]]:
    """Follow an all-reduce in a ring. The result, indexed as `[step][r][p]`, says how many ranks' numbers are added up in part
    `p` on rank `r` after each step.

    The tensor has as many parts as there are ranks. In each of the first `ranks - 1` steps, each rank sends one part to the
    next rank, which adds this part to its own part. Then each rank has one part of the complete sum. In the last `ranks - 1`
    steps, these complete parts are copied from rank to rank.
    """
    held = [[1] * ranks for _ in range(ranks)]
    steps = [held]
    for step in range(2 * (ranks - 1)):
        held = [list(row) for row in held]
        for rank in range(ranks):
            part, before = (rank - step) % ranks, steps[-1]
            if step >= ranks - 1:
                part = (rank + 1 - (step - ranks + 1)) % ranks
            following = (rank + 1) % ranks
            adds = before[following][part] if step < ranks - 1 else 0
            held[following][part] = before[rank][part] + adds
        steps.append(held)
    return steps


SHADES = ("#FFFFFF", "#D6E6F2", "#A9CCE3", "#5499C7", BLUE)
"""The colours of a part in the ring, from one rank's own numbers to the sum over all ranks."""


def ring(ranks: int = 4) -> Figure:
    """The steps of `ring_sums`; each step is drawn as a square of ranks and parts."""
    steps = ring_sums(ranks)
    caption = (
        f"Row: a rank. Column: 1/{ranks} of the tensor. Number: how many ranks' values are added up in this part. In each step "
        f"every rank sends 1/{ranks} of the tensor to the next rank (the last to the first)."
    )
    title = f"An all-reduce in a ring: {ranks} ranks, 2 x {ranks - 1} steps"
    canvas = Canvas(title, 2.1 + len(steps) * (ranks + 0.5), ranks + 1.2, caption=caption, inches=8.4)
    for rank in range(ranks):
        canvas.text(0, 1.5 + rank, f"rank {rank}", ha="left")
    for number, held in enumerate(steps):
        left = 2.1 + number * (ranks + 0.5)
        canvas.text(left + ranks / 2, 0.5, "start" if not number else f"{number}: {'add' if number < ranks else 'copy'}")
        for rank, row in enumerate(held):
            for part, count in enumerate(row):
                shade = SHADES[round(count / ranks * (len(SHADES) - 1))]
                canvas.box(left + part, 1 + rank, 1, 1, shade, str(count))
    return canvas.figure


def timetable(
    stages: int = 4, pieces: int = 4, *, piece_word: str = "micro-batch", stage_word: str = "stage", first_stage: int = 0
) -> Figure:
    """Equal stages and their micro-batches on a time axis. A crossed-out cell is a time at which a stage is idle.

    piece_word, stage_word: the words that a lab uses for a micro-batch and a stage. first_stage: the number of the first stage.
    """
    last = stages + pieces - 1
    unit = last / 7  # This is about one inch, however many steps there are.
    high, left = 0.5 * unit, 0.65 * unit
    canvas = Canvas(
        f"{counted(pieces, piece_word)} in {stages} equal {stage_word}s",
        left + last + 0.1 * unit,
        high * stages + 0.55 * unit,
        caption=f"Number: the {piece_word}. Crossed: the {stage_word} is idle. All crossed cells together are the bubble.",
        inches=7.0,
    )
    for stage in range(stages):
        top, bottom = high * stage, high * (stage + 1)
        canvas.text(0, top + high / 2, f"{stage_word} {first_stage + stage}", ha="left")
        for step in range(last):
            piece, x = step - stage, left + step
            if 0 <= piece < pieces:
                canvas.box(x, top, 1, high, COLOURS[piece % len(COLOURS)], str(piece))
            else:
                canvas.box(x, top, 1, high)
                canvas.line((x, top), (x + 1, bottom), colour=GREY)
                canvas.line((x, bottom), (x + 1, top), colour=GREY)
    canvas.arrow((left + 0.85, 0.6 * high), (left + 1.15, 1.4 * high), colour=ink_on(BLUE))
    canvas.ruler(high * stages, {left + step: str(step) for step in range(last + 1)})
    canvas.text(left + last / 2, high * stages + 0.42 * unit, f"time, in steps of one {stage_word}")
    return canvas.figure
