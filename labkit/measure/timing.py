"""Timing that can be believed: warmed up, synchronised, interleaved, repeated until it is steady, given with its spread.

Knows only that a thing can be called; a GPU's queue is waited for before each clock reading.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from labkit.errors import InvalidRequest


@dataclass(frozen=True)
class Timing:
    """Seconds of each counted run, in the order in which they were taken."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run, in seconds: the figure to quote."""
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """The lower quartile, in seconds."""
        return self._quartiles()[0]

    @property
    def high(self) -> float:
        """The upper quartile, in seconds."""
        return self._quartiles()[2]

    @property
    def spread(self) -> float:
        """Interquartile range over median: 0.05 means that half of the runs lie within 5 %."""
        return (self.high - self.low) / self.median if self.median else 0.0

    @property
    def runs(self) -> int:
        """How many runs were counted."""
        return len(self.samples)

    def _quartiles(self) -> list[float]:
        if len(self.samples) == 1:
            return [self.samples[0]] * 3
        return statistics.quantiles(self.samples, n=4, method="inclusive")

    def __str__(self) -> str:
        return f"{1e3 * self.median:.3f} ms ({1e3 * self.low:.3f} to {1e3 * self.high:.3f}, {self.runs} runs)"


@dataclass(frozen=True)
class Ratio:
    """How many times longer one thing takes than another: median and quartiles over pairs of neighbouring runs."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} x ({self.low:.2f} to {self.high:.2f})"


def compare(
    calls: Mapping[str, Callable[[], Any]],
    *,
    device: Any = None,
    warmup: int = 2,
    min_runs: int = 5,
    max_runs: int = 50,
    max_seconds: float = 5.0,
    spread_target: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time several things in turn, A B C A B C, so that drift of the machine meets all of them alike.

    After `warmup` rounds that do not count, rounds go on until every spread is at most `spread_target`, or `max_runs`
    rounds or `max_seconds` (counted rounds) are reached, but at least `min_runs`. `device` (None, "cpu", "cuda", ...)
    says whose queue is waited for before each clock reading; `synchronise` and `clock` replace the waiting and the
    clock. `progress` is called with rounds done and `max_runs`. Raises `InvalidRequest` for settings that cannot be.
    """
    if not calls or not 1 <= min_runs <= max_runs or warmup < 0 or not max_seconds > 0:
        raise InvalidRequest(
            f"timing {len(calls)} calls with warmup {warmup}, min_runs {min_runs}, max_runs {max_runs}, max_seconds "
            f"{max_seconds}: at least one call, warmup 0 or more, 1 <= min_runs <= max_runs, max_seconds above 0 are needed"
        )
    wait = synchronise or waiter(device)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warmup):
        for call in calls.values():
            call()
    wait()
    started = clock()
    for done in range(1, max_runs + 1):
        for name, call in calls.items():
            wait()
            before = clock()
            call()
            wait()
            samples[name].append(clock() - before)
        steady = all(Timing(tuple(taken)).spread <= spread_target for taken in samples.values())
        enough = done >= min_runs and (steady or clock() - started >= max_seconds)
        if progress:
            progress(done, done if enough else max_runs)
        if enough:
            break
    return {name: Timing(tuple(taken)) for name, taken in samples.items()}


def time_call(call: Callable[[], Any], **settings: Any) -> Timing:
    """Time one thing; the settings are those of `compare`."""
    return compare({"call": call}, **settings)["call"]


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """`slow / fast`, run by run; the two must come from one call of `compare`.

    Raises `InvalidRequest` when they have different numbers of runs, since those were not taken side by side, and when
    a run of `fast` took no time.
    """
    if slow.runs != fast.runs:
        raise InvalidRequest(f"a ratio pairs runs taken side by side, but these have {slow.runs} and {fast.runs} runs")
    if not all(sample > 0 for sample in fast.samples):
        raise InvalidRequest("a run took no time that the clock could see; time more work in one call")
    pairs = Timing(tuple(a / b for a, b in zip(slow.samples, fast.samples, strict=True)))
    return Ratio(pairs.median, pairs.low, pairs.high)


def waiter(device: Any) -> Callable[[], None]:
    """A function that waits until `device` has done all that was asked of it; on a CPU there is nothing to wait for."""
    if device is not None and str(device).startswith("cuda"):
        import torch

        return lambda: torch.cuda.synchronize(device)
    return lambda: None
