"""The learner's speed ladder: each thing they made run, and the tokens a second it reached, kept on disk."""

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
    """One measured run: a name, tokens a second (median), and what it was measured with."""

    name: str
    tokens_per_second: float
    low: float
    high: float
    details: dict[str, Any] = field(default_factory=dict)


def _check(rung: Rung) -> None:
    """Raise `InvalidRequest` unless the speeds are finite, positive and in order."""
    low, middle, high = rung.low, rung.tokens_per_second, rung.high
    slack = 1e-9 * middle  # quartiles are interpolated, and equal runs may round apart
    if not (math.isfinite(high) and 0 < low <= middle + slack and middle <= high + slack):
        raise InvalidRequest(
            f"rung {rung.name!r}: {middle} tokens a second, quartiles {low} and {high}; finite, positive numbers with the "
            "speed between its quartiles are accepted"
        )


class Ladder:
    """Rungs in the order in which they were first climbed; a rung measured again is replaced in its place."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "ladder.json"

    @property
    def rungs(self) -> list[Rung]:
        """All rungs; none when nothing was measured yet or the file cannot be read."""
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

        Raises `InvalidRequest` for a speed that is none or lies outside its quartiles. A file that cannot be read is kept
        aside as `.damaged`.
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
        """Add or replace the rung of something that makes `tokens` new tokens in each run of `timing`."""
        low, high = tokens / timing.high, tokens / timing.low
        return self.add(name, tokens / timing.median, low=low, high=high, runs=timing.runs, **details)

    def text(self) -> str:
        """The ladder for a terminal: a bar a rung, and how many times the first one it is."""
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
