"""The learner's speed ladder: each thing they made run, and the tokens a second it reached, kept on disk."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.home import home, write_atomically


@dataclass(frozen=True)
class Rung:
    """One measured run: a name, tokens a second (median), and what it was measured with."""

    name: str
    tokens_per_second: float
    low: float
    high: float
    details: dict[str, Any] = field(default_factory=dict)


class Ladder:
    """Rungs in the order in which they were first climbed; a rung measured again is replaced in its place."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "ladder.json"

    @property
    def rungs(self) -> list[Rung]:
        """All rungs; none when nothing was measured yet or the file cannot be read."""
        try:
            return [Rung(**row) for row in json.loads(self.path.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def add(
        self, name: str, tokens_per_second: float, *, low: float | None = None, high: float | None = None, **details: Any
    ) -> Rung:
        """Add or replace a rung; `low` and `high` are its quartiles. Raises `InvalidRequest` for a speed that is none."""
        numbers = [tokens_per_second, tokens_per_second if low is None else low, tokens_per_second if high is None else high]
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise InvalidRequest(f"rung {name!r}: tokens a second are {numbers}; positive, finite numbers are accepted")
        rung = Rung(name, numbers[0], numbers[1], numbers[2], details)
        rungs = self.rungs
        places = [index for index, old in enumerate(rungs) if old.name == name]
        if places:
            rungs[places[0]] = rung
        else:
            rungs.append(rung)
        write_atomically(self.path, json.dumps([asdict(row) for row in rungs], indent=1) + "\n")
        return rung

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
