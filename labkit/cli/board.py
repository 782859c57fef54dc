"""`labkit board`: merges the speed ladders of a class into one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.errors import InvalidRequest

START = "<!DOCTYPE html>"
"""The beginning of every HTML page. An existing file that begins differently is not overwritten."""


def board(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="The files that `labkit ladder --export` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("board.html"),
    json: JsonOption = False,
) -> None:
    """Merge the speed ladders of a class into one page with a table for each device and task, and print the tables as text.

    If a file cannot be used, the command names the file and the reason, and uses the other files. The page needs no network and
    no scripts.

    Example: labkit board ladders/*.json --out board.html
    """
    from labkit.gradebook.board import read_board
    from labkit.gradebook.board_page import board_page
    from labkit.gradebook.board_words import board_text
    from labkit.gradebook.names import one_line
    from labkit.home import write_atomically

    if out.exists() and not _is_page(out):
        raise InvalidRequest(f"{out} already exists and is not an HTML page; give another file with --out")
    found = read_board(files)
    for remark in found.remarks:
        say(f"note: {one_line(remark)}")
    if not found.tables:
        raise InvalidRequest("none of these files has a speed ladder; `labkit ladder --export FILE` writes one")
    write_atomically(out, board_page(found))
    print(f"{board_text(found)}\n\n{out}")
    if json:
        devices = len({table.device for table in found.tables})
        print_json({"page": str(out), "learners": found.learners, "devices": devices, "remarks": list(found.remarks)})


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(START)).decode("latin-1").upper() == START.upper()
