"""`labkit tour`: runs the solved labs without a browser and prints the speed ladder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say


def tour(
    course: Annotated[Path, typer.Option(help="The course's folder, with solutions/.")] = Path(),
    json: JsonOption = False,
) -> None:
    """Run every solved lab and print the resulting speed ladder. Your own progress and ladder do not change.

    Example: labkit tour
    """
    from dataclasses import asdict

    from labkit.grading.lab_notebooks import solved_notebook
    from labkit.grading.release import execute, find_labs
    from labkit.home import fresh_home
    from labkit.measure import Ladder

    labs = find_labs(course)
    with fresh_home():
        for number, lab in enumerate(labs, 1):
            say(f"[{number}/{len(labs)}] {lab.source.stem} ...")
            started = time.monotonic()
            execute(solved_notebook(lab.source.read_text("utf-8")), lab.source.parent, lab.source.name)
            say(f"[{number}/{len(labs)}] {lab.source.stem} done in {time.monotonic() - started:.0f} s")
        ladder = Ladder()
        print(ladder.text())
        if json:
            print_json({"labs": [lab.source.stem for lab in labs], "ladder": [asdict(rung) for rung in ladder.rungs]})
