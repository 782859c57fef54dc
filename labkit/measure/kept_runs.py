"""Measurements of a notebook kept on disk: a finished run is not thrown away when the kernel is restarted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.environment import describe
from labkit.errors import InvalidRequest
from labkit.home import home, write_atomically


class KeptRuns:
    """The measurements of one lab ("01") by name, each a plain JSON value with the machine and time it was taken.

    A run that was taken on another processor or GPU is not taken for one of this machine.
    """

    def __init__(self, lab: str, path: Path | None = None) -> None:
        self.path = path or home() / "runs" / f"lab{lab}.json"

    def keep(self, name: str, run: Callable[[], Any], *, again: bool = False) -> Any:
        """The kept value of `name`; where there is none, or with `again`, `run()` is called and its value kept.

        Raises `InvalidRequest` for a value that JSON cannot write.
        """
        rows = self._rows()
        machine = _machine()
        row = rows.get(name)
        if row and not again and row["machine"] == machine:
            print(f"Kept from {row['taken']}; add again=True to this cell's keep({name!r}, ...) to measure anew.")
            return row["value"]
        value = run()
        try:
            value = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(
                f"run {name!r} gave {value!r}; plain numbers, texts, lists and dictionaries are kept"
            ) from error
        rows[name] = {"value": value, "machine": machine, "taken": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
        write_atomically(self.path, json.dumps(rows, indent=1) + "\n")
        return value

    def _rows(self) -> dict[str, dict[str, Any]]:
        try:
            rows = json.loads(self.path.read_text("utf-8"))
            return {name: row for name, row in rows.items() if set(row) == {"value", "machine", "taken"}}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _machine() -> str:
    machine = describe()
    return ", ".join([machine.cpu.model, f"{machine.cpu.usable_cores} cores", *(gpu.name for gpu in machine.gpus)])
