"""Which labs run on a machine, and which of their exercises cannot be measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labkit.environment import Machine
from labkit.exercises.titles import LAB_TITLES

GIB = 2**30
PEAK_BYTES = {
    "00": 0.8 * GIB,
    "01": 1.0 * GIB,
    "02": 1.1 * GIB,
    "03": 2.2 * GIB,
    "04": 3.1 * GIB,
    "05": 1.4 * GIB,
    "06": 2.1 * GIB,
    "07": 1.3 * GIB,
    "08": 0.6 * GIB,
}
"""The peak total memory of all processes of each lab's core path, in bytes, on a machine with 2 cores.

For lab 04, a peak of 2.9 GiB was measured before the last section; in the last section, the engine in the notebook adds at most
0.2 GiB.
"""
MEMORY_BYTES = {
    "00": 3 * GIB,
    "01": 3 * GIB,
    "02": 3 * GIB,
    "03": 4 * GIB,
    "04": 5 * GIB,
    "05": 4 * GIB,
    "06": 4 * GIB,
    "07": 4 * GIB,
    "08": 3 * GIB,
}
"""The memory that a machine needs for each lab, in bytes.

Each value is about 2 GiB more than the lab itself needs, because the system, JupyterLab and a browser also need memory.
"""
FREE_DISK_BYTES = GIB // 2
"""The free disk space in bytes that every lab needs after the set-up, for saved results, compiled kernels, and copies to hand
in.
"""
NEEDED_PACKAGES = ("torch", "transformers")

YES, IN_PART, NO = "yes", "in part", "no"
"""Whether the exercises of a track can be measured on a machine: all of them, some, or none."""


@dataclass(frozen=True)
class NotMeasured:
    """An exercise that cannot be measured on a machine, with the reason in `why_not`."""

    exercise: str
    number: str
    track: str
    why_not: str


@dataclass(frozen=True)
class LabRow:
    """How much of a lab a machine can run.

    `core` and `full` say whether the exercises of the core path, and all exercises, can be measured: "yes", "in part" or "no".
    If the lab does not run at all, `why_not` is the reason; otherwise it is "".
    """

    lab: str
    title: str
    core: str
    full: str
    why_not: str
    not_measured_here: tuple[NotMeasured, ...]

    @property
    def reason(self) -> str:
        """A phrase that says why a part of the core path does not run; "" if the whole core path runs."""
        if self.why_not or self.core == YES:
            return self.why_not
        core = [one for one in self.not_measured_here if one.track == "core"]
        reasons = dict.fromkeys(one.why_not for one in core)
        return f"{', '.join(one.number for one in core)} not measured here: {'; '.join(reasons)}"


def why_not(machine: Machine, lab: str) -> str:
    """The reason why a lab does not run on this machine; "" if it runs."""
    lacking = [name for name in NEEDED_PACKAGES if name not in machine.versions]
    if lacking:
        return f"{' and '.join(lacking)} not installed: run `make env`"
    needs = MEMORY_BYTES[lab]
    if machine.memory_bytes < needs:
        return f"{machine.memory_bytes / GIB:.1f} GiB of memory, {needs / GIB:g} are needed"
    if machine.disk_free_bytes < FREE_DISK_BYTES:
        return f"{machine.disk_free_bytes / GIB:.1f} GiB of disk free, {FREE_DISK_BYTES / GIB:g} are needed"
    return ""


def lab_rows(machine: Machine) -> list[LabRow]:
    """Return a row for each lab on this machine."""
    return [_row(machine, lab, title) for lab, title in LAB_TITLES.items()]


def _row(machine: Machine, lab: str, title: str) -> LabRow:
    stop = why_not(machine, lab)
    if stop:
        return LabRow(lab, title, NO, NO, stop, ())
    from labkit.exercises import registry
    from labkit.grading.find_answer import not_judged_here

    exercises = registry.of_lab(lab)
    rows = [NotMeasured(each.name, each.number, each.track, not_judged_here(each, machine)) for each in exercises]
    core = _how_many([row for row in rows if row.track == "core"])
    return LabRow(lab, title, core, _how_many(rows), "", tuple(row for row in rows if row.why_not))


def _how_many(rows: Sequence[NotMeasured]) -> str:
    measured = [row for row in rows if not row.why_not]
    if len(measured) == len(rows):
        return YES
    return IN_PART if measured else NO
