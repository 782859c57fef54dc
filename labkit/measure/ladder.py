"""The learner's speed ladder, which is stored on disk. It contains every engine that the learner built, with its tokens per
second.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.home import home, write_atomically
from labkit.measure.timing import Timing


@dataclass(frozen=True)
class Rung:
    """One measured run: its name, median tokens per second, quartiles `low` and `high`, and details of the measurement."""

    name: str
    tokens_per_second: float
    low: float
    high: float
    details: dict[str, Any] = field(default_factory=dict)


def _check(rung: Rung) -> None:
    """Raise `InvalidRequest` unless the speeds are finite, positive and in order."""
    low, middle, high = rung.low, rung.tokens_per_second, rung.high
    slack = 1e-9 * middle  # quartiles are interpolated, and rounding can make equal numbers slightly different
    if not (math.isfinite(high) and 0 < low <= middle + slack and middle <= high + slack):
        raise InvalidRequest(
            f"rung {rung.name!r}: {middle} tokens per second, quartiles {low} and {high}; the numbers must be finite and "
            "positive, with the speed between its quartiles"
        )


class Ladder:
    """Rungs in the order of their first measurement.

    A new measurement of a rung replaces the old one and keeps its position.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "ladder.json"

    @property
    def rungs(self) -> list[Rung]:
        """All rungs; an empty list if nothing was measured yet or the file cannot be read."""
        try:
            return self._read()
        except (OSError, ValueError, TypeError):
            return []

    def _read(self) -> list[Rung]:
        rungs = [Rung(**row) for row in json.loads(self.path.read_text("utf-8"))]
        for rung in rungs:
            _check(rung)
        return rungs

    def add(
        self, name: str, tokens_per_second: float, *, low: float | None = None, high: float | None = None, **details: Any
    ) -> Rung:
        """Add or replace a rung; `low` and `high` are its quartiles.

        Raises `InvalidRequest` if the speed is not positive and finite, or is not between its quartiles. An unreadable file is
        renamed: its suffix becomes `.damaged`.
        """
        low = tokens_per_second if low is None else low
        high = tokens_per_second if high is None else high
        rung = Rung(name, tokens_per_second, low, high, details)
        _check(rung)
        try:
            rungs = self._read()
        except FileNotFoundError:
            rungs = []
        except (OSError, ValueError, TypeError):
            self.path.replace(self.path.with_suffix(".damaged"))
            rungs = []
        places = [index for index, old in enumerate(rungs) if old.name == name]
        if places:
            rungs[places[0]] = rung
        else:
            rungs.append(rung)
        write_atomically(self.path, json.dumps([asdict(row) for row in rungs], indent=1) + "\n")
        return rung

    def add_timing(self, name: str, timing: Timing, *, tokens: int, **details: Any) -> Rung:
        """Add or replace the rung of an engine that generates `tokens` new tokens in each run of `timing`."""
        low, high = tokens / timing.high, tokens / timing.low
        return self.add(name, tokens / timing.median, low=low, high=high, runs=timing.runs, **details)

    def text(self) -> str:
        """The ladder as text: for each rung a bar, its speed, and its speed relative to the first rung."""
        rungs = self.rungs
        if not rungs:
            return "Your ladder is empty: run a lab's measurements first."
        width = max(len(rung.name) for rung in rungs)
        most = max(rung.tokens_per_second for rung in rungs)
        lines = []
        for rung in rungs:
            bar = "█" * max(1, round(30 * rung.tokens_per_second / most))
            times = rung.tokens_per_second / rungs[0].tokens_per_second
            lines.append(f"{rung.name:<{width}}  {bar:<30}  {rung.tokens_per_second:>9,.1f} tokens/s  {times:>6.1f} x")
        return "\n".join(lines)
