"""`labkit check`: the verdicts on notebooks, from outside."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say


def check(
    notebooks: Annotated[list[Path], typer.Argument(metavar="NOTEBOOK...", help="Notebooks of the course.")],
    json: JsonOption = False,
) -> None:
    """Check every exercise in notebooks, each function in a process of its own with limits on time and memory.

    Exits with status 1 when an exercise that was attempted fails.

    Example: labkit check labs/01_huggingface_baseline.ipynb
    """
    from labkit.grading.notebook import check_notebook
    from labkit.grading.verdict import FAILED

    rows = []
    failed = 0
    for path in notebooks:
        say(f"{path}: running each function in a process of its own")
        for verdict in check_notebook(path, lambda exercise: say(f"  {exercise.number} {exercise.title}")):
            print(verdict)
            failed += verdict.verdict == FAILED
            rows.append({"notebook": str(path)} | asdict(verdict))
    reached, total = sum(row["points"] for row in rows), sum(row["out_of"] for row in rows)
    print(f"{reached} of {total} points")
    if json:
        print_json({"exercises": rows, "points": reached, "out_of": total})
    if failed:
        raise SystemExit(1)
