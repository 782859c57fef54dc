"""Measurements of a notebook kept on disk: a finished run is not lost when the kernel is restarted.

A measurement that other programs disturbed is kept too, but taken again when its cell is run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.environment import describe
from labkit.errors import InvalidRequest
from labkit.home import home, write_atomically
from labkit.measure.timing import ADVICE, Timing, ratio


class KeptRuns:
    """The measurements of one lab ("01") by name, each a plain JSON value with the machine and time it was taken.

    A run taken on another processor or GPU is not used here. Neither is a value that says itself that it is not to be
    trusted: a dictionary with a text under "disturbed".
    """

    def __init__(self, lab: str, path: Path | None = None) -> None:
        self.path = path or home() / "runs" / f"lab{lab}.json"

    def keep(self, name: str, run: Callable[[], Any], *, again: bool = False) -> Any:
        """The kept value of `name`; if there is none, or with `again`, `run()` is called and its value kept.

        Raises `InvalidRequest` for a value that JSON cannot write.
        """
        rows = self._rows()
        machine = _machine()
        row = rows.get(name)
        if row and not again and row["machine"] == machine:
            disturbed = _disturbed(row["value"])
            if not disturbed:
                print(f"Kept from {row['taken']}; add again=True to this cell's keep({name!r}, ...) to measure anew.")
                return row["value"]
            print(f"The run kept from {row['taken']} was disturbed ({disturbed}); it is taken again now.")
        value = run()
        try:
            value = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"run {name!r} gave {value!r}; plain numbers, texts, lists and dictionaries are kept"
            ) from error
        rows[name] = {"value": value, "machine": machine, "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
        write_atomically(self.path, json.dumps(rows, indent=1) + "\n")
        if disturbed := _disturbed(value):
            print(f"This measurement was disturbed: {disturbed}. To get a better one, {ADVICE}.")
        return value

    def keep_timings(self, name: str, run: Callable[[], dict[str, Timing]], *, again: bool = False) -> dict[str, Timing]:
        """As `keep`, for the timings of one call of `compare`: taken again as long as their ratios cannot be trusted."""

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
    """What a kept value says of programs that disturbed it; empty when it says nothing."""
    return str(value.get("disturbed", "")) if isinstance(value, dict) else ""


def _machine() -> str:
    machine = describe()
    return ", ".join([machine.cpu.model, f"{machine.cpu.usable_cores} cores", *(gpu.name for gpu in machine.gpus)])
