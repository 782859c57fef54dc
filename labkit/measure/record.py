"""Stores a measurement as JSON: its settings, its rows, the machine, the versions of packages, and the date."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from labkit.environment import describe, find_versions
from labkit.errors import InvalidRequest
from labkit.home import write_atomically

VERSIONED = ("torch", "transformers", "triton", "numpy", "safetensors", "tokenizers", "labkit")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter for a measurement. Missing packages are left out."""
    return {"python": platform.python_version(), **find_versions(VERSIONED)}


@dataclass(frozen=True)
class Record:
    """A measurement. `kind` says what the rows describe. `settings` holds the requested shapes, precision, seed and so on."""

    kind: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    machine: dict[str, Any] = field(default_factory=lambda: describe().to_dict())
    versions: dict[str, str] = field(default_factory=versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values.

        Raises `InvalidRequest` if JSON cannot hold one of the values, such as NaN. The error names the place of this value.
        """
        values: dict[str, Any] = _plain(asdict(self), self.kind)
        return values

    def save(self, path: str | Path) -> Path:
        """Write the record atomically as JSON."""
        write_atomically(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record from a file. Raises `InvalidRequest`, which names the file, if the record is not complete."""
        try:
            values = json.loads(Path(path).read_text("utf-8"))
            missing = {field.name for field in fields(cls)} - set(values)
            if missing:  # the defaults are not used, because they describe this machine and today's date
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            return cls(**_plain(values, "record"))
        except (OSError, ValueError, TypeError) as error:
            raise InvalidRequest(f"{path} is not a record of a measurement: {error}") from error

    def caption(self) -> str:
        """Return the line that is shown below a figure: device, requested settings, version of torch, and date."""
        asked = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        gpus = self.machine.get("gpus") or []
        device = gpus[0]["name"] if gpus else self.machine["cpu"]["model"]
        return f"{device}; {asked}; torch {self.versions.get('torch', '?')}; {self.created[:10]}"


def _plain(value: Any, place: str) -> Any:
    """Convert a value to the types that reading JSON returns."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{place} is {value}; a record accepts finite numbers only")
    if not isinstance(value, bool | int | float | str | None):
        raise InvalidRequest(f"{place} is a {type(value).__name__}; a record accepts numbers, text, lists and dictionaries")
    return value
