"""`labkit watch`: checks notebooks each time they are saved."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.cli.verdict_rows import json_of, points_of
from labkit.errors import LabkitError

if TYPE_CHECKING:
    from labkit.grading.watch import WatchedNotebook

SECONDS_BETWEEN_LOOKS = 0.5


def watch(
    notebooks: Annotated[list[Path], typer.Argument(metavar="NOTEBOOK...", help="Notebooks of the course.")],
    once: Annotated[bool, typer.Option("--once", help="Check the notebooks now, and do not wait for a change.")] = False,
    json: JsonOption = False,
) -> None:
    """Check these notebooks now, and check them again each time you save them. Ctrl-C ends the command.

    Only functions whose code has changed are checked again. The verdicts are the same as those of `labkit check`. Changes to
    other files in the notebook's folder are not noticed. The exit status is 0, whatever the verdicts are.

    Example: labkit watch labs/01_huggingface_baseline.ipynb
    """
    from labkit.grading.watch import WatchedNotebook

    watched = [WatchedNotebook(path) for path in notebooks]
    try:
        for notebook in watched:
            _check(notebook)
        while not once:
            say("waiting for a change of the notebook; Ctrl-C ends this")
            _wait_and_check(watched)
    except KeyboardInterrupt:
        say("stopped")
    if json:
        print_json(json_of([(one.path, verdict) for one in watched for verdict in one.verdicts.values()]))


def _wait_and_check(watched: list[WatchedNotebook]) -> None:
    """Wait until a notebook is saved, and check it.

    If a file cannot be checked, its name is printed, and the command continues.
    """
    while not (saved := [notebook for notebook in watched if notebook.is_saved()]):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    for notebook in saved:
        try:
            _check(notebook)
        except LabkitError as error:
            say(f"labkit: {error}")


def _check(notebook: WatchedNotebook) -> None:
    say(f"{notebook.path}: checking the functions whose code has changed")
    verdicts = notebook.check(lambda exercise: say(f"  {exercise.number} {exercise.title}"), say)
    for verdict in verdicts:
        print(verdict)
    if not verdicts:
        say("no function has changed")
    reached = points_of(notebook.verdicts.values())
    print(f"{reached.words} for the present code of {notebook.path}; {reached.core_words}", flush=True)
