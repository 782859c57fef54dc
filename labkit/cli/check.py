"""`labkit check`: checks whole notebooks from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.cli.verdict_rows import json_of, points_of
from labkit.errors import LabkitError

if TYPE_CHECKING:
    from labkit.grading.verdict import Verdict


def check(
    notebooks: Annotated[list[Path], typer.Argument(metavar="NOTEBOOK...", help="Notebooks of the course.")],
    json: JsonOption = False,
) -> None:
    """Check every exercise in these notebooks. Each function runs in its own process, with limits on time and memory.

    The exit status is 1 if an attempted exercise fails or could not be graded, and 2 if a file is not a readable lab notebook.
    If one file cannot be checked, the other notebooks are still checked.

    Example: labkit check labs/01_huggingface_baseline.ipynb
    """
    from labkit.grading.notebook_check import check_notebook
    from labkit.grading.verdict import FAILED, UNGRADED

    found: list[tuple[Path, Verdict]] = []
    refused: list[LabkitError] = []
    for path in notebooks:
        say(f"{path}: running each function in its own process")
        try:
            verdicts = check_notebook(path, lambda exercise: say(f"  {exercise.number} {exercise.title}"), say)
        except LabkitError as error:
            if len(notebooks) == 1:
                raise
            refused.append(error)
            say(f"labkit: {error}")
            continue
        for verdict in verdicts:
            print(verdict)
            found.append((path, verdict))
    reached = points_of(verdict for _, verdict in found)
    print(f"{reached.words} for the present code of the notebooks; {reached.core_words}")
    if json:
        print_json(json_of(found))
    if refused:
        raise SystemExit(2)
    if any(verdict.verdict in (FAILED, UNGRADED) for _, verdict in found):
        raise SystemExit(1)
