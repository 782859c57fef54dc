"""Writes the file in which a learner shares speed ladders. Also reads such files, which can come from an unknown source.

The file is JSON: `{"kind", "version", "unit", "name", "created", "versions", "rungs"}`. The name that the learner chose is the
only personal data in the file. Each rung has `{"device", "task", "name", "tokens_per_second", "low", "high", "runs",
"disturbed"}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest, NotAvailable
from labkit.home import write_atomically
from labkit.json_file import MOST_BYTES, need_text, need_whole, read_json_object
from labkit.measure.record import versions
from labkit.measure.rung import Rung
from labkit.measure.task import Task

FILE_END = "ladder.json"
"""The ending of the name of a shared ladder in a submission, as in `ada.ladder.json`."""
KIND, VERSION, UNIT = "labkit ladder", 1, "tokens per second"
UNKNOWN_DEVICE = "a device that was not recorded"
"""The device of a rung that an older version of labkit stored."""
MOST_RUNGS, MOST_NAME, MOST_NUMBER = 60, 60, 10**9
"""Limits for a file: the number of rungs, the characters of the learner's name, and the largest number."""


@dataclass(frozen=True)
class SharedRung:
    """A rung in a shared file, the device on which it was measured, and the number of its runs (0 if not known)."""

    device: str
    rung: Rung
    runs: int


@dataclass(frozen=True)
class SharedLadder:
    """The content of a shared file: the name that the learner chose, the versions of packages, and the rungs of all ladders."""

    name: str
    versions: Mapping[str, str]
    rungs: tuple[SharedRung, ...]


def write_ladder_file(path: Path, name: str, rungs: Iterable[Rung]) -> None:
    """Write the rungs to a file.

    Raises `NotAvailable` if there are no rungs, and `InvalidRequest` if the name is empty or too long, or if `path` is an
    existing file that is not a ladder.
    """
    if not 1 <= len(name.strip()) <= MOST_NAME:
        raise InvalidRequest(f"the name {name!r:.40} has {len(name.strip())} characters; give a name of 1 to {MOST_NAME}")
    rows = [_row(rung) for rung in rungs]
    if not rows:
        raise NotAvailable("your ladder is empty, so there is nothing to share; run a lab's measurements first")
    if path.exists():
        try:
            read_ladder_file(path)
        except InvalidRequest:
            raise InvalidRequest(f"{path} already exists and is not a ladder; give another file") from None
    now = datetime.now(UTC).isoformat(timespec="seconds")
    about = {"kind": KIND, "version": VERSION, "unit": UNIT, "name": name.strip(), "created": now, "versions": versions()}
    write_atomically(path, json.dumps(about | {"rungs": rows}, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _row(rung: Rung) -> dict[str, Any]:
    runs = rung.details.get("runs")
    return {
        "device": rung.device or UNKNOWN_DEVICE,
        "task": asdict(rung.task),
        "name": rung.name,
        "tokens_per_second": rung.tokens_per_second,
        "low": rung.low,
        "high": rung.high,
        "runs": runs if isinstance(runs, int) else 0,
        "disturbed": rung.disturbed,
    }


def read_ladder_file(path: Path) -> SharedLadder:
    """Read a shared file and check its content, which may be anything.

    If the file cannot be read or is not a speed ladder, raises `InvalidRequest` with one sentence that names the file.
    """
    try:
        return _ladder(read_json_object(path, MOST_BYTES))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError as error:
        raise InvalidRequest(f"{path} is not a speed ladder: {error}") from None


def _ladder(found: dict[str, Any]) -> SharedLadder:
    if found.get("kind") != KIND:
        raise ValueError(f"its kind is {found.get('kind')!r:.60}; `labkit ladder --export` writes {KIND!r}")
    if found.get("version") != VERSION:
        raise ValueError(f"its version is {found.get('version')!r:.60}; this labkit reads version {VERSION}")
    if found.get("unit") != UNIT:
        raise ValueError(f"its unit is {found.get('unit')!r:.60}; only {UNIT} can be compared")
    rows = found.get("rungs")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_RUNGS:
        raise ValueError(f"it must contain a list of 1 to {MOST_RUNGS} rungs")
    rungs = [_shared(row, f"rung {number}") for number, row in enumerate(rows, start=1)]
    places = [(one.device, one.rung.task, one.rung.name) for one in rungs]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise ValueError(f"it has two rungs with the name {twice[2]!r} for the same task and device")
    packages = found.get("versions")
    if not isinstance(packages, dict) or len(packages) > MOST_RUNGS:
        raise ValueError("its versions must be an object with a text for each package")
    known = {need_text(package, "a package"): need_text(version, "a version") for package, version in packages.items()}
    return SharedLadder(need_text(found.get("name"), "its name", most=MOST_NAME).strip(), known, tuple(rungs))


def _shared(row: Any, place: str) -> SharedRung:
    if not isinstance(row, dict) or not isinstance(task := row.get("task"), dict):
        raise ValueError(f"{place} must be an object with a task")
    sizes = (
        need_whole(task.get(size), f"{size} of {place}", 1, MOST_NUMBER)
        for size in ("sequences", "prompt_tokens", "new_tokens")
    )
    speed, low, high = (_speed(row.get(name), f"{name} of {place}") for name in ("tokens_per_second", "low", "high"))
    rung = Rung(
        Task(need_text(task.get("model"), f"the model of {place}"), *sizes),
        need_text(row.get("name"), f"the name of {place}"),
        speed,
        low,
        high,
        need_text(row.get("disturbed"), f"disturbed of {place}", least=0),
    )
    runs = need_whole(row.get("runs"), f"runs of {place}", 0, MOST_NUMBER)
    return SharedRung(need_text(row.get("device"), f"the device of {place}"), rung, runs)


def _speed(value: Any, place: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MOST_NUMBER:
        raise ValueError(f"{place} is {value!r:.60}; a number above 0 and at most {MOST_NUMBER} is accepted")
    return float(value)
