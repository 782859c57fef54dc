"""`labkit release`: makes the notebooks from their sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.errors import InvalidRequest


def release(
    course: Annotated[Path, typer.Option(help="The course's folder, with solutions/ and labs/.")] = Path(),
    lab: Annotated[str | None, typer.Option(help="Only this lab: 01 for example.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; list the notebooks that do not match their sources.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite notebooks that a person has edited.")] = False,
    json: JsonOption = False,
) -> None:
    """Write labs/*.ipynb (stubs) and solutions/*.ipynb (solved and executed) from solutions/*.py.

    Example: labkit release --check
    """
    from labkit.grading.release import find_labs, stale
    from labkit.grading.release import release as write

    there = find_labs(course)
    labs = [found for found in there if lab is None or found.source.name.startswith(f"{lab}_")]
    if not labs:
        names = ", ".join(found.source.name.split("_")[0] for found in there)
        raise InvalidRequest(f"there is no lab {lab!r} in {course}; the labs there are {names}")
    if check:
        behind = [str(path) for found in labs for path in stale(found)]
        print("\n".join(behind) if behind else f"{2 * len(labs)} notebooks match their sources")
        if json:
            print_json({"stale": behind})
        raise SystemExit(1 if behind else 0)
    written: list[str] = []
    for number, found in enumerate(labs, 1):
        say(f"[{number}/{len(labs)}] {found.source.name}: executing the solved notebook")
        written += map(str, write(found, force=force))
    print("\n".join(written))
    if json:
        print_json({"written": written})
