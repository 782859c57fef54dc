"""`labkit ladder`: prints the learner's speed ladders, and writes them to a file to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json


def ladder(
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write the ladders to this file: ada.ladder.json.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="The name to write into the file; choose any name.")] = "",
    json: JsonOption = False,
) -> None:
    """Print the speed ladders that your labs measured, one for each task. With --export, write them to a file to share.

    The file contains the device, the versions of the packages, the rungs with their spread, and no personal data except the
    name that you choose. `labkit board` makes one page from the files of a class.

    Example: labkit ladder --export ada.ladder.json --name ada
    """
    from dataclasses import asdict

    from labkit.errors import InvalidRequest
    from labkit.measure import Ladder

    if export and not name.strip():
        raise InvalidRequest("--export needs a name for the class board; choose any name: --name ada")
    own = Ladder()
    print(own.text())
    if export:
        own.export(export, name)
        print(f"\nTo share, hand in {export}. It contains your name {name.strip()!r}, your device, versions and speeds.")
    if json:
        print_json({"ladder": [asdict(rung) for rung in own.rungs], "file": str(export) if export else None})
