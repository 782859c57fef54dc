"""One JSON form for everything measured: what, when, on which machine, with which versions, and the rows."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.environment import describe, find_versions
from labkit.errors import InvalidRequest
from labkit.home import write_atomically

VERSIONED = ("torch", "transformers", "triton", "numpy", "safetensors", "tokenizers", "labkit")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a measurement; those not installed are left out."""
    return {"python": platform.python_version(), **find_versions(VERSIONED)}


@dataclass(frozen=True)
class Record:
    """A measurement. `kind` says what the rows are; `settings` what was asked for (shapes, precision, seed)."""

    kind: str
    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    machine: dict[str, Any] = field(default_factory=lambda: describe().to_dict())
    versions: dict[str, str] = field(default_factory=versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only; raises `InvalidRequest` naming the place of anything that JSON cannot hold, NaN among it."""
        values: dict[str, Any] = _plain(asdict(self), self.kind)
        return values

    def save(self, path: str | Path) -> Path:
        """Write the record as JSON, atomically."""
        write_atomically(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read a record back; raises `InvalidRequest` naming the file when it is not one, or not a whole one."""
        try:
            values = json.loads(Path(path).read_text("utf-8"))
            missing = {field.name for field in fields(cls)} - set(values)
            if missing:  # the defaults describe this machine and now, not those of the measurement
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            return cls(**_plain(values, "record"))
        except (OSError, ValueError, TypeError) as error:
            raise InvalidRequest(f"{path} is no record of a measurement: {error}") from error

    def caption(self) -> str:
        """One line under a figure: device, dtype and shapes asked for, versions, date."""
        asked = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        gpus = self.machine.get("gpus") or []
        device = gpus[0]["name"] if gpus else self.machine["cpu"]["model"]
        return f"{device}; {asked}; torch {self.versions.get('torch', '?')}; {self.created[:10]}"


def _plain(value: Any, place: str) -> Any:
    """The value in the types that JSON reads back."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{place} is {value}; a record holds measured, finite numbers only")
    if not isinstance(value, bool | int | float | str | None):
        raise InvalidRequest(f"{place} is a {type(value).__name__}; a record holds numbers, text, lists and dictionaries")
    return value
