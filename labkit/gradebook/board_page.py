"""The class board as a static HTML page: it needs no network and no scripts. All texts from files are escaped."""

from __future__ import annotations

from itertools import groupby

from labkit.gradebook.board import Board, Cell, Row, Table
from labkit.gradebook.board_words import EXPLAINED, THE_CLASS, compared, speed, spread, versions_of
from labkit.gradebook.page import name, page, table, text
from labkit.plurals import counted


def board_page(board: Board) -> str:
    """The HTML page with the class board."""
    return page("Speed ladders of the class", [f"<p>{counted(board.learners, 'learner')}.</p>", *board_parts(board)])


def board_parts(board: Board) -> list[str]:
    """The parts of the page: a heading for each device, a table for each task, and the remarks on files with problems."""
    parts = [f"<p>{text(EXPLAINED)}</p>"]
    for device, tables in groupby(board.tables, key=lambda table: table.device):
        parts += [f"<h3>{text(device)}</h3>", *map(_table, tables)]
    if board.remarks:
        parts.append("<h3>Remarks on files</h3>\n<ul>" + "".join(f"<li>{text(one)}</li>" for one in board.remarks) + "</ul>")
    return parts


def _table(found: Table) -> str:
    rows = [[_learner(row), *(_cell(row.cells.get(rung)) for rung in found.rungs)] for row in found.rows]
    if found.whole:
        rows.append([text(THE_CLASS), *(_whole(found.whole.get(rung)) for rung in found.rungs)])
    header = ["Learner", f"{found.rungs[0]} (baseline)", *found.rungs[1:]]
    return f'<div style="overflow-x:auto" tabindex="0">{table(str(found.task), header, rows, range(1, len(header)))}</div>'


def _learner(row: Row) -> str:
    return f'{name(row.name)} <br><small style="font-weight:normal">{text(versions_of(row))}</small>'


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "not measured"
    numbers = (f'<span style="white-space:nowrap">{text(part)}</span>' for part in (speed(cell), spread(cell)))
    return " <br>".join([*numbers, text(compared(cell))])


def _whole(cell: Cell | None) -> str:
    return f"{_cell(cell)}<br>of {counted(cell.count, 'learner')}" if cell else "not measured"
