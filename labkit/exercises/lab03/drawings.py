"""The drawings of lab 03: a weight that is cut in two ways, a ring that adds up, and the timetable of a pipeline."""

from __future__ import annotations

from typing import Any

from labkit.measure.diagram import PALE, arrow, box, canvas, note
from labkit.measure.plots import COLOURS, DARK, NUMBER_SIZE, ink_on, new_figure

RANKS = COLOURS[:2]
"""The colours of rank 0 and rank 1."""


def two_cuts() -> Any:
    """`F.linear(x, weight)` on two ranks: the weight cut by output features on the left, by input features on the right.

    `x` lies above the weight's columns and the output beside its rows, so that a colour shows what belongs together.
    """
    caption = "Blue: rank 0. Orange: rank 1. Grey: whole, on both ranks. Each output is one row of weight times x."
    figure, axes = canvas("One weight, cut in two ways", caption, 7.0, 2.5)
    note(axes, (1.3, 0.1), "by output features (3.1)", weight="bold")
    box(axes, (0.5, 0.4), (1.6, 0.25), "x")
    for rank, colour in enumerate(RANKS):
        box(axes, (0.5, 0.85 + 0.7 * rank), (1.6, 0.7), "rows of weight", colour)
        box(axes, (2.35, 0.85 + 0.7 * rank), (0.25, 0.7), "", colour)
    note(axes, (2.47, 2.4), "output: a share each")
    note(axes, (0.3, 1.55), "out", rotation=90)
    note(axes, (1.3, 2.4), "in")
    note(axes, (5.0, 0.1), "by input features (3.2)", weight="bold")
    for rank, colour in enumerate(RANKS):
        box(axes, (3.5 + 0.8 * rank, 0.4), (0.8, 0.25), "x", colour)
        box(axes, (3.5 + 0.8 * rank, 0.85), (0.8, 1.4), "columns", colour)
        box(axes, (5.35 + 0.55 * rank, 0.85), (0.25, 1.4), "", colour)
    note(axes, (5.75, 1.55), "+", fontsize=14)
    note(axes, (6.3, 1.55), "=", fontsize=14)
    box(axes, (6.45, 0.85), (0.25, 1.4), "", PALE)
    note(axes, (5.95, 2.4), "parts of every sum: add up")
    return figure


def ring_sums(ranks: int = 4) -> list[list[list[int]]]:
    """A ring that adds up: after each step, how many ranks' numbers are in part `p` on rank `r`, as `[step][r][p]`.

    The tensor has as many parts as there are ranks. For `ranks - 1` steps each rank passes one part on to the next, which adds
    it to its own; then one part of the sum is complete on each rank, and goes round in `ranks - 1` more steps.
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


def ring(ranks: int = 4) -> Any:
    """The steps of `ring_sums`, one square of ranks and parts for each."""
    steps = ring_sums(ranks)
    caption = (
        f"Row: a rank. Column: a {ranks}th of the tensor. Number: how many ranks' values are added up in it. In each step "
        f"every rank sends one {ranks}th to the next rank (the last to the first)."
    )
    title = f"An all-reduce in a ring: {ranks} ranks, 2 x {ranks - 1} steps"
    figure = new_figure(title, caption, width=8.4, height=2.5)
    shades = ["#FFFFFF", "#D6E6F2", "#A9CCE3", "#5499C7", COLOURS[0]]
    for number, (axes, held) in enumerate(zip(figure.subplots(1, len(steps)), steps, strict=True)):
        for rank, row in enumerate(held):
            for part, count in enumerate(row):
                colour = shades[round(count / ranks * (len(shades) - 1))]
                box(axes, (part, rank), (1, 1), str(count), colour)
        axes.set(xlim=(-0.05, ranks + 0.05), ylim=(ranks + 0.05, -0.05), aspect="equal", xticks=[])
        axes.set_yticks([rank + 0.5 for rank in range(ranks)], [f"rank {rank}" for rank in range(ranks)] if not number else [])
        axes.tick_params(length=0, labelsize=NUMBER_SIZE)
        axes.spines[:].set_visible(False)
        name = "start" if not number else f"{number}: {'add' if number < ranks else 'copy'}"
        axes.set_title(name, fontsize=NUMBER_SIZE, color=DARK)
    return figure


def timetable(stages: int = 4, pieces: int = 4) -> Any:
    """Equal stages and their micro-batches on a time axis; the steps in which a stage has nothing to do are crossed out."""
    caption = "Number: the micro-batch. Crossed: the stage stands idle. All crossed cells together are the bubble."
    figure = new_figure(f"{pieces} micro-batches in {stages} equal stages", caption, height=2.9)
    axes = figure.add_subplot()
    last = stages + pieces - 1
    for stage in range(stages):
        for step in range(last):
            piece = step - stage
            is_busy = 0 <= piece < pieces
            box(axes, (step, stage), (1, 1), str(piece) if is_busy else "", COLOURS[piece] if is_busy else PALE)
            if not is_busy:
                axes.plot([step, step + 1], [stage, stage + 1], color="#AAAAAA", linewidth=1)
                axes.plot([step, step + 1], [stage + 1, stage], color="#AAAAAA", linewidth=1)
    arrow(axes, (0.9, 0.62), (1.12, 1.38), colour=ink_on(COLOURS[0]))
    axes.set(xlim=(0, last), ylim=(stages, 0), xlabel="time, in steps of one stage", xticks=range(last + 1))
    axes.set_yticks([stage + 0.5 for stage in range(stages)], [f"stage {stage}" for stage in range(stages)])
    axes.spines[["top", "right"]].set_visible(False)
    return figure
