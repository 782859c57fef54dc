"""`labkit reset`: replaces the text of one exercise in a notebook with its stub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json


def reset(
    notebook: Annotated[Path, typer.Argument(metavar="NOTEBOOK", help="A notebook of the course.")],
    exercise: Annotated[str, typer.Argument(metavar="EXERCISE", help="The name of the function that the exercise asks for.")],
    json: JsonOption = False,
) -> None:
    """Put the stub of one exercise back into a notebook.

    Your old text is kept, and all other cells are unchanged. Save the notebook before you run this command. If the notebook is
    open in JupyterLab, choose "Reload Notebook from Disk" in the File menu afterwards.

    Example: labkit reset labs/00_class_environment.ipynb kv_cache_bytes
    """
    from labkit.exercises.registry import exercise as find
    from labkit.grading.reset import reset_in_file

    asked = find(exercise)
    done = reset_in_file(notebook, asked)
    if done.kept:
        cells = ", ".join(map(str, done.cells))
        print(f"{notebook}: {asked.function} is the stub again (changed: cell {cells}). Your points are kept.")
        print(f"Your old text is in {done.kept}.")
        print('If the notebook is open in JupyterLab, choose "Reload Notebook from Disk" in the File menu.')
    else:
        print(f"{notebook}: {asked.function} is still the stub; nothing was changed")
    if json:
        print_json({"exercise": asked.name, "cells": done.cells, "kept": str(done.kept) if done.kept else None})
