"""The tables of `labkit doctor --session`, for one machine and for all machines in a room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from labkit.gradebook.names import one_line
from labkit.plurals import counted
from labkit.session.labs import FREE_DISK_BYTES, GIB, MEMORY_BYTES, PEAK_BYTES
from labkit.session.report import SessionReport
from labkit.session.room import Room


def print_report(report: SessionReport) -> None:
    """Print which labs run on a machine, the memory and disk that each lab needs, and how long the set-up takes."""
    disk = f"{FREE_DISK_BYTES / GIB:g} GiB of {report.disk_free_bytes / GIB:.1f}"
    rows = [
        [
            row.lab,
            row.title,
            row.core,
            row.full,
            f"{MEMORY_BYTES[row.lab] / GIB:g} GiB of {report.memory_bytes / GIB:.1f}",
            disk,
            f"{report.seconds(row.lab):.0f} s",
        ]
        for row in report.labs
    ]
    header = ["lab", "title", "core path runs", "all of it runs", "memory needed", "disk needed", "set-up"]
    _table(f"Labs on {one_line(report.machine)}", header, rows)
    for row in report.labs:
        if row.why_not:
            print(f"Lab {row.lab} does not run: {one_line(row.why_not)}.")
        for one in row.not_measured_here:
            print(f"Lab {row.lab}: {one.number} ({one.track}) not measured here: {one_line(one.why_not)}.")
        if not row.why_not and report.memory_available_bytes < PEAK_BYTES[row.lab]:
            free, peak = report.memory_available_bytes / GIB, PEAK_BYTES[row.lab] / GIB
            needs = f"the lab needs up to {peak:.1f} GiB of memory, and {free:.1f} are free now"
            print(f"Lab {row.lab}: close other programs first; {needs}.")
    steps = [[step.name, _labs(step.labs), step.how, _seconds(step.seconds), one_line(step.note)] for step in report.setup]
    _table("Set-up", ["step", "labs", "how", "seconds", "note"], steps)


def print_room(room: Room) -> None:
    """Print how many machines can run each lab, and then which machines cannot run its core path, and why."""
    if not room.machines:
        return
    rows = [
        [lab.lab, lab.title, *map(str, (lab.core, lab.in_part, lab.none, lab.full)), f"{lab.longest_setup:.0f} s"]
        for lab in room.labs
    ]
    header = ["lab", "title", "core path runs", "in part", "not at all", "all of it runs", "longest set-up"]
    _table(f"The room: {counted(len(room.machines), 'machine')}", header, rows)
    troubles = [
        [lab.lab, one_line(trouble.machine), trouble.core, one_line(trouble.why)]
        for lab in room.labs
        for trouble in lab.troubles
    ]
    if troubles:
        _table("Machines that cannot run a whole core path", ["lab", "machine", "core path runs", "why"], troubles)
    else:
        print("Every machine runs the core path of every lab.")


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*header, title=Text(title), title_justify="left", box=box.SIMPLE)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _labs(labs: Sequence[str]) -> str:
    return "all" if len(labs) == len(MEMORY_BYTES) else ", ".join(labs)


def _seconds(seconds: Any) -> str:
    return "-" if seconds is None else f"{seconds:.1f}"
