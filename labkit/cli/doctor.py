"""`labkit doctor`: describes this machine and the labs that it can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from labkit.cli.output import JsonOption, print_json
from labkit.plurals import counted

if TYPE_CHECKING:
    from labkit.environment import Machine

MINIMUM_MEMORY = 3 * 2**30


def doctor(json: JsonOption = False) -> None:
    """Show this machine, the installed versions, and which labs and exercises run here. If one does not run, the reason is
    shown.

    Example: labkit doctor --json
    """
    from labkit.environment import describe
    from labkit.serving.server.install import find_server

    machine = describe()
    labs = lab_report(machine)
    kernels = native_kernels(machine)
    server = found.origin if (found := find_server()) else None
    _print_tables(machine, kernels, server, labs)
    if json:
        print_json(
            {
                "cpu": machine.to_dict()["cpu"],
                "native_kernels": kernels,
                "gpus": machine.to_dict()["gpus"],
                "memory_bytes": machine.memory_bytes,
                "disk_free_bytes": machine.disk_free_bytes,
                "triton_server": server,
                "versions": machine.versions,
                "labs": labs,
            }
        )


def lab_report(machine: Machine) -> list[dict[str, Any]]:
    """A dictionary for each lab: whether it runs on this machine, why not, and which exercises cannot be measured here."""
    from labkit.exercises.titles import LAB_TITLES

    stop = why_not(machine)
    return [
        {
            "lab": lab,
            "title": title,
            "runs": not stop,
            "why_not": stop,
            "not_measured_here": [] if stop else _not_measured(lab, machine),
        }
        for lab, title in LAB_TITLES.items()
    ]


def _not_measured(lab: str, machine: Machine) -> list[dict[str, str]]:
    from labkit.exercises.registry import of_lab
    from labkit.grading.machine_needs import missing

    reasons = {exercise.name: missing(exercise, machine) for exercise in of_lab(lab)}
    return [{"exercise": name, "why_not": why} for name, why in reasons.items() if why]


def why_not(machine: Machine) -> str:
    """The reason why no lab runs on this machine; "" if the labs run."""
    lacking = [name for name in ("torch", "transformers") if name not in machine.versions]
    if lacking:
        return f"{' and '.join(lacking)} not installed: run `make env`"
    if machine.memory_bytes < MINIMUM_MEMORY:
        return f"{machine.memory_bytes / 2**30:.1f} GiB of memory, {MINIMUM_MEMORY / 2**30:.0f} are needed"
    return ""


def native_kernels(machine: Machine) -> dict[str, str]:
    """The `instruction_set` that labkit's own CPU kernels use on this machine.

    If it is "", the kernels do not run, and `why_not` says why.
    """
    if "torch" not in machine.versions:
        return {"instruction_set": "", "why_not": "torch not installed"}
    from labkit import native

    reason = native.why_not()
    return {"instruction_set": "" if reason else native.instruction_set(), "why_not": reason}


def _print_tables(machine: Machine, kernels: dict[str, str], server: str | None, labs: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="This machine", title_justify="left", show_header=False)
    cpu = machine.cpu
    table.add_row("system", machine.system)
    table.add_row("processor", f"{cpu.model}, {counted(cpu.usable_cores, 'core')} usable, {cpu.architecture}")
    listed = machine.system.startswith("Linux")  # macOS has no list in /proc; the next row names the set that is used
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
