"""The report of `labkit doctor --session` on one machine: makes the report as a JSON object, and reads it from a file."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit import __version__
from labkit.environment import Machine
from labkit.errors import InvalidRequest
from labkit.exercises.titles import LAB_TITLES
from labkit.json_file import MOST_BYTES, need_text, need_whole, parse_json_object
from labkit.session.labs import IN_PART, NO, YES, LabRow, NotMeasured, lab_rows
from labkit.session.setup_steps import setup_steps
from labkit.session.steps import DONE, ESTIMATED, MEASURED, NOT_MEASURED, Step

FORMAT = 1
"""The version of the JSON object, stored under its key "session"."""
MOST_TEXT = 1000
"""The maximum number of characters in each text of a report."""
_NO_REPORT = "is not a report of `labkit doctor --session --json`"


@dataclass(frozen=True)
class SessionReport:
    """What a machine can do in a course session.

    `machine` is the machine's name; `taken` is the time of the report in UTC (ISO 8601).
    """

    machine: str
    taken: str
    labkit: str
    system: str
    processor: str
    cores: int
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    gpus: tuple[str, ...]
    labs: tuple[LabRow, ...]
    setup: tuple[Step, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that can be written as JSON."""
        return {"session": FORMAT, **asdict(self)}

    def seconds(self, lab: str) -> float:
        """How many seconds of the set-up are left before a lab can begin. Steps whose time is unknown count as 0."""
        return sum(step.seconds or 0.0 for step in self.setup if lab in step.labs and step.is_to_come)


def session_report(machine: Machine, megabits: float, say: Callable[[str], object]) -> SessionReport:
    """Make the report on this machine.

    `megabits` is the speed of the machine's network in Mbit per second; `say` is called with one line before each step.

    Raises `InvalidRequest` if the speed is not a positive number.
    """
    if not 0 < megabits < float("inf"):
        raise InvalidRequest(f"the bandwidth is {megabits:g} Mbit/s; give a number above 0")
    return SessionReport(
        machine=platform.node() or "unnamed",
        taken=datetime.now(UTC).isoformat(timespec="seconds"),
        labkit=__version__,
        system=machine.system,
        processor=machine.cpu.model,
        cores=machine.cpu.usable_cores,
        memory_bytes=machine.memory_bytes,
        memory_available_bytes=machine.memory_available_bytes,
        disk_free_bytes=machine.disk_free_bytes,
        gpus=tuple(gpu.name for gpu in machine.gpus),
        labs=tuple(lab_rows(machine)),
        setup=tuple(setup_steps(machine, megabits, say)),
    )


def read_report(path: Path) -> SessionReport:
    """Read the report in a file: a JSON object, or the output of `labkit doctor --session --json`, whose last line is the
    object.

    Raises `InvalidRequest` with one sentence if the file cannot be read or holds no report.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        lines = content.strip().splitlines()
        if not lines:
            raise ValueError("it is empty")
        return _from_dict(parse_json_object(content if content.lstrip()[:1] == b"{" else lines[-1]))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise InvalidRequest(f"{path} {_NO_REPORT}: {error.args[0]!r} is missing") from None
    except (ValueError, TypeError) as error:
        raise InvalidRequest(f"{path} {_NO_REPORT}: {error}") from None


def _from_dict(found: dict[str, Any]) -> SessionReport:
    if found["session"] != FORMAT:
        raise ValueError(f"its format is {found['session']!r:.40}; this labkit reads format {FORMAT}")
    labs = {row.lab: row for row in map(_lab, _rows(found["labs"]))}
    if lacking := [lab for lab in LAB_TITLES if lab not in labs]:
        raise ValueError(f"it has no row for lab {', '.join(lacking)}")
    texts = {name: _text(found[name], name) for name in ("machine", "taken", "labkit", "system", "processor")}
    return SessionReport(
        **texts,
        cores=need_whole(found["cores"], "cores"),
        memory_bytes=need_whole(found["memory_bytes"], "memory_bytes"),
        memory_available_bytes=need_whole(found["memory_available_bytes"], "memory_available_bytes"),
        disk_free_bytes=need_whole(found["disk_free_bytes"], "disk_free_bytes"),
        gpus=tuple(_text(name, "a GPU") for name in _list(found["gpus"])),
        labs=tuple(labs[lab] for lab in LAB_TITLES),
        setup=tuple(map(_step, _rows(found["setup"]))),
    )


def _lab(row: dict[str, Any]) -> LabRow:
    absent = tuple(
        NotMeasured(*(_text(one[name], name) for name in ("exercise", "number", "track", "why_not")))
        for one in _rows(row["not_measured_here"])
    )
    core, full = (_one_of(row[name], (YES, IN_PART, NO), name) for name in ("core", "full"))
    return LabRow(_text(row["lab"], "lab"), _text(row["title"], "title"), core, full, _text(row["why_not"], "why_not"), absent)


def _step(row: dict[str, Any]) -> Step:
    seconds = row["seconds"]
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9):
        raise ValueError(f"the seconds of a step are {seconds!r:.40}; a number of at least 0 is accepted")
    how = _one_of(row["how"], (MEASURED, ESTIMATED, DONE, NOT_MEASURED), "how")
    labs = tuple(_text(lab, "a lab") for lab in _list(row["labs"]))
    return Step(_text(row["name"], "name"), labs, how, seconds, _text(row["note"], "note"), row["is_to_come"] is True)


def _text(value: Any, name: str) -> str:
    return need_text(value, name, least=0, most=MOST_TEXT)


def _one_of(value: Any, accepted: Sequence[str], name: str) -> str:
    if value not in accepted:
        raise ValueError(f"{name} is {value!r:.40}; the accepted values are {', '.join(accepted)}")
    return str(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > 1000:
        raise ValueError("a list is missing or too long")
    return value


def _rows(value: Any) -> list[dict[str, Any]]:
    rows = _list(value)
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row of a list is not an object")
    return rows
