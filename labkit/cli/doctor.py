"""`labkit doctor`: describes this machine and the labs that it can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labkit.cli.output import JsonOption, print_json, say
from labkit.errors import InvalidRequest
from labkit.plurals import counted

if TYPE_CHECKING:
    from labkit.environment import Machine


def doctor(
    reports: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[REPORT]...",
            help="With --session: files with the JSON output of this command from other machines, which become one table.",
        ),
    ] = None,
    session: Annotated[
        bool, typer.Option("--session", help="Check this machine before a course session; it takes about a minute.")
    ] = False,
    bandwidth: Annotated[
        float, typer.Option("--bandwidth", metavar="MBIT", help="With --session: the network's speed in Mbit/s, for downloads.")
    ] = 50.0,
    json: JsonOption = False,
) -> None:
    """Show this machine, the installed versions, and which labs and exercises run here, or why they do not run.

    With --session, also show what each lab needs, and how long its set-up takes. If you collect the JSON output of many
    machines and give the files to the same command, it prints one table of all machines in the room. If a file is not a report,
    the command names it, uses the other files, and exits with status 2.

    Example: labkit doctor --session --json > ada.json, then labkit doctor --session *.json
    """
    if reports and not session:
        raise InvalidRequest(f"{reports[0]} is given without --session; use labkit doctor --session {reports[0]}")
    if reports:
        _room(reports, json)
    elif session:
        _session(bandwidth, json)
    else:
        _describe(json)


def _session(bandwidth: float, json: bool) -> None:
    from labkit.cli.session_tables import print_report
    from labkit.environment import describe
    from labkit.session.report import session_report

    report = session_report(describe(), bandwidth, say)
    print_report(report)
    if json:
        print_json(report.to_dict())


def _room(paths: list[Path], json: bool) -> None:
    from labkit.cli.session_tables import print_room
    from labkit.session.room import room_of

    room = room_of(paths)
    for sentence in room.refused:
        say(f"labkit: {sentence}")
    print_room(room)
    if json:
        print_json(room.to_dict())
    if room.refused:
        raise SystemExit(2)


def _describe(json: bool) -> None:
    from labkit.environment import describe
    from labkit.serving.server.install import find_server

    machine = describe()
    labs = lab_report(machine)
    kernels = native_kernels(machine)
    server = found.origin if (found := find_server()) else None
    answers = answers_of(machine)
    _print_tables(machine, kernels, server, answers["words"], labs)
    if json:
        print_json(
            {
                "cpu": machine.to_dict()["cpu"],
                "native_kernels": kernels,
                "gpus": machine.to_dict()["gpus"],
                "memory_bytes": machine.memory_bytes,
                "disk_free_bytes": machine.disk_free_bytes,
                "triton_server": server,
                "answers": answers,
                "versions": machine.versions,
                "labs": labs,
            }
        )


def lab_report(machine: Machine) -> list[dict[str, Any]]:
    """A dictionary for each lab: whether it runs on this machine, why not, and which exercises cannot be measured here."""
    from labkit.session.labs import lab_rows

    return [
        {
            "lab": row.lab,
            "title": row.title,
            "runs": not row.why_not,
            "why_not": row.why_not,
            "not_measured_here": [{"exercise": one.exercise, "why_not": one.why_not} for one in row.not_measured_here],
        }
        for row in lab_rows(machine)
    ]


def native_kernels(machine: Machine) -> dict[str, str]:
    """A dictionary with the `instruction_set` that labkit's own CPU kernels use on this machine.

    If `instruction_set` is "", the kernels cannot run on this machine, and `why_not` says why.
    """
    if "torch" not in machine.versions:
        return {"instruction_set": "", "why_not": "torch not installed"}
    from labkit import native

    reason = native.why_not()
    return {"instruction_set": "" if reason else native.instruction_set(), "why_not": reason}


def answers_of(machine: Machine) -> dict[str, Any]:
    """Which answers to the exercises this copy of labkit contains (see `answers_here`)."""
    if "torch" not in machine.versions:
        return {"kind": "", "words": "not known: torch not installed"}
    from labkit.grading.answers_here import answers_here

    return answers_here()


def _print_tables(
    machine: Machine, kernels: dict[str, str], server: str | None, answers: str, labs: list[dict[str, Any]]
) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="This machine", title_justify="left", show_header=False)
    cpu = machine.cpu
    table.add_row("system", machine.system)
    table.add_row("processor", f"{cpu.model}, {counted(cpu.usable_cores, 'core')} usable, {cpu.architecture}")
    listed = machine.system.startswith("Linux")  # macOS has no file in /proc that lists them
    no_sets = "none of the sets that labkit looks for" if listed else "this system does not list them"
    table.add_row("instruction sets", ", ".join(cpu.instruction_sets) or no_sets)
    used = kernels["instruction_set"] or f"not used: {kernels['why_not']}; torch's own kernels run"
    table.add_row("labkit's CPU kernels", used)
    table.add_row("memory", f"{machine.memory_bytes / 2**30:.1f} GiB, {machine.memory_available_bytes / 2**30:.1f} available")
    table.add_row("disk", f"{machine.disk_free_bytes / 2**30:.1f} GiB free here")
    for gpu in machine.gpus:
        size = f"{gpu.memory_bytes / 2**30:.0f} GiB, compute {gpu.compute_capability}"
        links = f"PCIe {gpu.pcie}, {gpu.nvlinks} NVLinks, driver {gpu.driver}"
        table.add_row(f"GPU {gpu.index}", f"{gpu.name}, {size}, {links}")
    if not machine.gpus:
        table.add_row("GPU", f"none: {machine.gpus_why_none}; labs run on the CPU")
    table.add_row("Triton server", server or "none; `labkit serve --install` gets one")
    table.add_row("answers", answers)
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items()))
    report = Table(title="Labs", title_justify="left")
    for column in ("lab", "title", "runs here", "not measured here"):
        report.add_column(column)
    for row in labs:
        runs = "yes" if row["runs"] else f"no: {row['why_not']}"
        absent = "; ".join(f"{item['exercise']} {item['why_not']}" for item in row["not_measured_here"]) or "-"
        report.add_row(row["lab"], row["title"], runs, absent)
    console = Console()
    console.print(table)
    console.print(report)
