"""Made-up reports of machines, for tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.environment import describe
from labkit.session.labs import lab_rows
from labkit.session.report import SessionReport
from labkit.session.steps import DONE, ESTIMATED, MEASURED, NOT_MEASURED, Step

GIB = 2**30
STEPS = (
    Step("download torch", ("00", "04"), DONE, None, "torch 2.13 is installed", is_to_come=False),
    Step("import torch", ("00", "04"), MEASURED, 2.5, "part of each lab's first cell", is_to_come=False),
    Step("first cell", ("00",), MEASURED, 3.5),
    Step("get the server", ("04",), ESTIMATED, 12.0, "75 MB at 50 Mbit/s"),
    Step("start a kernel", ("00", "04"), NOT_MEASURED, None, "Jupyter is broken"),
)


def machine_report(name: str = "ada", **changes: Any) -> SessionReport:
    """The report of a machine like this one, with some fields of its description (`labkit.environment.Machine`) changed."""
    machine = replace(describe(), memory_bytes=8 * GIB, memory_available_bytes=7 * GIB, disk_free_bytes=50 * GIB, **changes)
    return SessionReport(
        *(name, "2026-10-05T08:00:00+00:00", "0.1.0", machine.system, machine.cpu.model, machine.cpu.usable_cores),
        *(machine.memory_bytes, machine.memory_available_bytes, machine.disk_free_bytes),
        *((), tuple(lab_rows(machine)), STEPS),
    )


def write_report(path: Path, report: SessionReport, **changes: Any) -> Path:
    """Write a report as a JSON file, with some values changed."""
    path.write_text(json.dumps(report.to_dict() | changes), "utf-8")
    return path
