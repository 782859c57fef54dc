"""Stores the measurements of a notebook on disk, so that they survive a restart of the Jupyter kernel.

A measurement that was disturbed by other programs is stored too, but it is repeated when its notebook cell runs again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.environment import describe
from labkit.errors import InvalidRequest
from labkit.home import home, locked, write_atomically
from labkit.measure.disturbed import disturbed_note
from labkit.measure.timing import Timing, ratio


class KeptRuns:
    """The measurements of one lab by name. `lab` is the lab's number, such as "01".

    Each measurement is stored as a JSON value with the machine and the time. A measurement from another processor or GPU is not
    used on this machine; the run is repeated. A measurement that is a dictionary with a text under "disturbed" is also
    repeated; the text says why the measurement cannot be trusted.
    """

    def __init__(self, lab: str, path: Path | None = None) -> None:
        self.path = path or home() / "runs" / f"lab{lab}.json"

    def keep(self, name: str, run: Callable[[], Any], *, again: bool = False) -> Any:
        """Return the stored value of `name`.

        If there is no value, or if `again` is set, call `run()`, store its value and return it. Raises `InvalidRequest` for a
        value that JSON cannot hold.
        """
        machine = str(describe())
        row = self._rows().get(name)
        if row and not again and row["machine"] == machine:
            disturbed = _disturbed(row["value"])
            if not disturbed:
                print(
                    f"This result was kept from {row['taken']}. To measure again, add again=True to keep({name!r}, ...) in "
                    "this cell."
                )
                return row["value"]
            print(f"The run kept from {row['taken']} was disturbed ({disturbed}), so it is repeated now.")
        value = run()
        try:
            value = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"run {name!r} returned {value!r}; numbers, text, lists and dictionaries are accepted"
            ) from error
        row = {"value": value, "machine": machine, "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
        with locked(self.path):  # the file is read again, because another notebook may have stored a run in the meantime
            write_atomically(self.path, json.dumps(self._rows() | {name: row}, indent=1) + "\n")
        if note := disturbed_note([_disturbed(value)]):
            print(note)
        return value

    def keep_timings(self, name: str, run: Callable[[], dict[str, Timing]], *, again: bool = False) -> dict[str, Timing]:
        """Do the same as `keep` for the timings that one call of `compare` returns.

        The timings are measured again if their ratios cannot be trusted.
        """

        def measure() -> dict[str, Any]:
            timings = run()
            first = next(iter(timings.values()))
            why = next((found.why for other in timings.values() if not (found := ratio(first, other)).trusted), "")
            return {"samples": {call: timing.samples for call, timing in timings.items()}, "disturbed": why}

        kept = self.keep(name, measure, again=again)
        return {call: Timing(tuple(samples), kept["disturbed"]) for call, samples in kept["samples"].items()}

    def _rows(self) -> dict[str, dict[str, Any]]:
        try:
            rows = json.loads(self.path.read_text("utf-8"))
            return {name: row for name, row in rows.items() if set(row) == {"value", "machine", "taken"}}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _disturbed(value: Any) -> str:
    """Return the text in a stored value that says why the measurement cannot be trusted, or "" if there is no such text."""
    return str(value.get("disturbed", "")) if isinstance(value, dict) else ""
