"""`labkit solution`: shows the course's solution of an exercise that the learner has passed or gives up on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json
from labkit.errors import NotAvailable


def solution(
    exercise: Annotated[str, typer.Argument(metavar="EXERCISE", help="The name of the function that the exercise asks for.")],
    give_up: Annotated[
        bool,
        typer.Option("--give-up", help="Show the solution before a pass; the exercise then earns no new points in your panel."),
    ] = False,
    course: Annotated[
        Path | None, typer.Option(help="The course's folder, with solutions/; if left out, labkit searches for it.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the course's solution of one exercise after you have passed it, or if you give up.

    A pass counts only if `check` was run in a notebook. No notebook is changed.

    Example: labkit solution kv_cache_bytes --give-up
    """
    from labkit.exercises.registry import exercise as find
    from labkit.grading.progress import Progress
    from labkit.grading.solution import in_words, may_see, not_yet, show_solution

    asked = find(exercise)
    if not (give_up or may_see(asked)):
        raise NotAvailable(f"{not_yet(asked)} To give up, add --give-up")
    found = show_solution(asked, course)
    print(in_words(asked, found))
    if json:
        given_up = Progress().standings()[asked.name].given_up
        print_json({"exercise": asked.name, "solution": found.text, "path": str(found.path), "given_up": given_up})
