"""`labkit tour`: runs the solved labs without a browser and prints the speed ladders."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.plurals import counted


def tour(
    course: Annotated[Path, typer.Option(help="The course's folder, with solutions/.")] = Path(),
    plot: Annotated[Path | None, typer.Option(help="Draw the speed ladders to this PNG or SVG file.")] = None,
    json: JsonOption = False,
) -> None:
    """Run every solved lab and print the resulting speed ladders, one for each task. Your own progress and ladders do not
    change.

    If other programs disturbed a measurement, the ladders say so.

    Example: labkit tour --plot ladders.png
    """
    from dataclasses import asdict

    from labkit.environment import describe
    from labkit.grading.lab_notebooks import solved_notebook
    from labkit.grading.release import execute, find_labs
    from labkit.home import fresh_home
    from labkit.measure import Ladder, plots
    from labkit.measure.disturbed import COMMAND_AGAIN, SIGN

    labs = find_labs(course)
    disturbed: dict[str, int] = {}
    with fresh_home():
        for number, lab in enumerate(labs, 1):
            name = lab.source.stem
            say(f"[{number}/{len(labs)}] {name} ...")
            started = time.monotonic()
            notebook = execute(solved_notebook(lab.source.read_text("utf-8")), lab.source.parent, lab.source.name)
            say(f"[{number}/{len(labs)}] {name} done in {time.monotonic() - started:.0f} s")
            if found := disturbed_cells(notebook):
                disturbed[name] = found
                say(f"{SIGN} Measurements in {counted(found, 'cell')} were disturbed. To get better ones, {COMMAND_AGAIN}.")
        ladder = Ladder()
        print(ladder.text(COMMAND_AGAIN))
        if plot and not ladder.rungs:
            say(f"{plot} is not drawn, because no lab has measured a speed.")
        elif plot:
            figure = plots.ladder_plot(ladder.rungs, title="Speed ladders", caption=str(describe()), again=COMMAND_AGAIN)
            figure.savefig(plot)
            say(f"drawn to {plot}")
        if json:
            rungs = [asdict(rung) for rung in ladder.rungs]
            print_json({"labs": [lab.source.stem for lab in labs], "ladder": rungs, "disturbed_cells": disturbed})


def disturbed_cells(notebook: Any) -> int:
    """The number of cells in an executed notebook whose output says that a measurement was disturbed or is too noisy."""
    from labkit.measure.disturbed import NOTE
    from labkit.measure.timing import TOO_NOISY

    said = ["".join(output.get("text", "") for output in cell.get("outputs", [])) for cell in notebook.cells]
    return sum(NOTE in text or TOO_NOISY in text for text in said)
