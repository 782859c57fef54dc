"""The class board as text, and the words that the text and the page share."""

from __future__ import annotations

import math
from collections.abc import Iterator

from labkit.gradebook.board import Board, Cell, Row, Table
from labkit.gradebook.names import one_line
from labkit.measure.disturbed import SIGN
from labkit.plurals import counted

BUSY = f"{SIGN} measured on a busy machine, so it is not compared"
THE_CLASS = "The class"
EXPLAINED = (
    "Each speed is the median of a learner's runs in tokens per second, with its quartiles. A number with x says how many "
    "times as fast a rung is as the baseline of the same learner on the same device. The row of the class has the learners' "
    "medians, without measurements from busy machines. The learners made these files themselves: nobody has checked the "
    "numbers."
)


def speed(cell: Cell) -> str:
    """The speed of a cell in words, such as "75.3 tokens/s"."""
    return f"{cell.speed:,.1f} tokens/s"


def spread(cell: Cell) -> str:
    """The quartiles of a cell in words, such as "(73.4 to 81.4)"."""
    return f"({cell.low:,.1f} to {cell.high:,.1f})"


def compared(cell: Cell) -> str:
    """How the cell compares with the baseline: "3.0 x", "measured on a busy machine", or "" if there is no baseline."""
    if cell.disturbed:
        return BUSY
    if math.isnan(cell.times):
        return ""
    digits = 2 if cell.times < 1 else 1 if cell.times < 10 else 0
    return f"{cell.times:,.{digits}f} x"


def versions_of(row: Row) -> str:
    """The versions of the packages that matter most for a speed, such as "labkit 0.1.0, torch 2.13.0"."""
    return ", ".join(f"{package} {row.versions[package]}" for package in ("labkit", "torch") if package in row.versions)


def board_text(board: Board) -> str:
    """The board as text: for each device and task, every learner with a line for each rung, and then the class."""
    if not board.tables:
        return "No file has a speed ladder."
    return "\n".join([EXPLAINED, *(line for table in board.tables for line in _table(table))])


def _table(table: Table) -> Iterator[str]:
    width = max(len(one_line(rung)) for rung in table.rungs)
    yield f"\n{one_line(table.device)}\n{one_line(str(table.task))} (baseline: {one_line(table.rungs[0])})"
    for row in table.rows:
        about = versions_of(row)
        yield f"  {one_line(row.name)}" + (f" ({one_line(about)})" if about else "")
        yield from (_line(rung, width, row.cells[rung]) for rung in table.rungs if rung in row.cells)
    if table.whole:
        yield f"  {THE_CLASS}"
    for rung, whole in table.whole.items():
        yield f"{_line(rung, width, whole)}  of {counted(whole.count, 'learner')}"


def _line(rung: str, width: int, cell: Cell) -> str:
    return f"    {one_line(rung):<{width}}  {speed(cell)} {spread(cell)}  {compared(cell)}".rstrip()
