"""Times functions reliably. After a warm-up, the functions run in turn, and each run is synchronised.

Runs are repeated until the times are steady. The spread is reported. A ratio of two timings also says whether it can be
trusted. This module does not depend on what it times: it calls functions, and waits until a GPU's queue is empty before each
reading of the clock.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labkit.errors import InvalidRequest
from labkit.measure.contention import Contention
from labkit.measure.disturbed import CELL_AGAIN
from labkit.plurals import counted
from labkit.torch_state import torch_threads

TOO_NOISY = "too noisy to compare"

WIDEST = 0.5
"""A ratio is trusted if its quartiles are at most this far apart, as a share of its median."""
FEWEST_PAIRS = 3
LOOKS = (0.25, 1 / 3, 0.5, 0.75)
"""The contention is checked after these shares of the longest measuring time."""
ATTEMPTS = 5
"""A disturbed measurement is made at most this many times. It is repeated only if less than half of `max_seconds` has passed.

A measurement of small calls takes only a few milliseconds, so even a short burst of work in another program disturbs it.
"""
PAUSE = 0.1
"""Seconds to wait before a disturbed measurement is taken again."""
FIRST_LOOK = 0.1
"""The contention is not checked before this many seconds, because its clocks have steps of a hundredth of a second."""


def too_noisy(why: str = "") -> str:
    """Return the sentence to print if times are too noisy to be compared. It says why they are too noisy and what to do."""
    return f"{TOO_NOISY}; {CELL_AGAIN}" + (f" ({why})" if why else "")


@dataclass(frozen=True)
class Timing:
    """The seconds of each counted run, in the order of the runs.

    `disturbed` is a message about how other programs slowed the runs down; it is empty if they did not.
    """

    samples: tuple[float, ...]
    disturbed: str = ""

    @property
    def median(self) -> float:
        """The median time of the runs, in seconds. This is the number to report."""
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
        """The interquartile range divided by the median.

        If the result is 0.05, the middle half of the runs differ by at most 5 % of the median.
        """
        return (self.high - self.low) / self.median if self.median else 0.0

    @property
    def runs(self) -> int:
        """The number of counted runs."""
        return len(self.samples)

    def _quartiles(self) -> list[float]:
        if len(self.samples) == 1:
            return [self.samples[0]] * 3
        return statistics.quantiles(self.samples, n=4, method="inclusive")

    def __str__(self) -> str:
        return f"{1e3 * self.median:.3f} ms ({1e3 * self.low:.3f} to {1e3 * self.high:.3f}, {counted(self.runs, 'run')})"


@dataclass(frozen=True)
class Ratio:
    """How many times as long one function takes as another: median and quartiles over pairs of neighbouring runs.

    `slow` and `fast` are the seconds of the two functions in the pair with the median ratio. `why` says why the ratio cannot be
    trusted: other programs disturbed the runs, or the pairs differ too much. `why` is empty for a ratio that can be trusted. If
    a ratio cannot be trusted, the text `str(ratio)` contains no number, so any ratio can be printed in a title.
    """

    median: float
    low: float
    high: float
    slow: float = math.nan
    fast: float = math.nan
    why: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the ratio can be trusted."""
        return not self.why

    @property
    def shown(self) -> float:
        """The number to draw: the median, or NaN if the ratio cannot be trusted. No bar is drawn for NaN."""
        return self.median if self.trusted else math.nan

    @property
    def words(self) -> str:
        """A sentence to print. It contains the two times and the ratio, or says why the times are too noisy and what to do."""
        if self.why:
            return too_noisy(self.why)
        return f"{1e3 * self.slow:.3f} ms against {1e3 * self.fast:.3f} ms: {self}"

    def __str__(self) -> str:
        return TOO_NOISY if self.why else f"{self.median:.2f} x ({self.low:.2f} to {self.high:.2f})"


def compare(
    calls: Mapping[str, Callable[[], Any]],
    *,
    device: Any = None,
    warmup: int = 2,
    min_runs: int = 5,
    max_runs: int = 50,
    max_seconds: float = 5.0,
    spread_target: float = 0.05,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    synchronise: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time several functions in turn, A B C A B C, so that a change in the machine's speed affects all functions equally.

    After `warmup` rounds that do not count, there are at least `min_runs` rounds. The rounds end when every spread is at most
    `spread_target`, or after `max_runs` rounds or `max_seconds` of counted rounds. The rounds end earlier if other programs
    have already disturbed the machine so much that timings over `max_seconds` would count as disturbed. If the timings are
    disturbed and half of `max_seconds` is left, all functions are timed again, up to `ATTEMPTS` times, and the last attempt
    counts. Before each reading of the clock, `compare` waits until the queue of `device` (None, "cpu", "cuda", ...) is empty.
    `synchronise` replaces this wait, and `clock` replaces the clock. `threads` is the number of torch's CPU threads during the
    measurement. With only one thread, the times of small operations do not depend on whether a second core is free. `progress`
    is called with the number of finished rounds and `max_runs`. Raises `InvalidRequest` for impossible settings.
    """
    if not calls or not 1 <= min_runs <= max_runs or warmup < 0 or not max_seconds > 0:
        raise InvalidRequest(
            f"timing {counted(len(calls), 'call')} with warmup {warmup}, min_runs {min_runs}, max_runs {max_runs}, max_seconds "
            f"{max_seconds}: give at least one call, warmup >= 0, 1 <= min_runs <= max_runs and max_seconds > 0"
        )
    wait = synchronise or waiter(device)
    with torch_threads(threads):
        for _ in range(warmup):
            for call in calls.values():
                call()
        wait()
        started = clock()
        for attempt in range(1, ATTEMPTS + 1):
            left = max_seconds - (clock() - started)
            samples, disturbed = _rounds(calls, wait, clock, min_runs, max_runs, left, spread_target, progress)
            if not disturbed or attempt == ATTEMPTS or clock() - started > max_seconds / 2:
                break
            time.sleep(PAUSE)
    timings = {name: Timing(tuple(taken), disturbed) for name, taken in samples.items()}
    if progress:
        runs = next(iter(timings.values())).runs
        progress(runs, runs)  # only once, after the last attempt, because this call closes a progress bar
    return timings


def _rounds(
    calls: Mapping[str, Callable[[], Any]],
    wait: Callable[[], None],
    clock: Callable[[], float],
    min_runs: int,
    max_runs: int,
    max_seconds: float,
    spread_target: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, list[float]], str]:
    """Return the seconds of each call in each round, and a text that says how other programs disturbed the rounds."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    started, begun = clock(), time.perf_counter()
    lost, looks = False, [max(share * max_seconds, FIRST_LOOK) for share in LOOKS]
    with Contention() as contention:
        for done in range(1, max_runs + 1):
            _one_round(calls, samples, wait, clock)
            steady = all(Timing(tuple(taken)).spread <= spread_target for taken in samples.values())
            lost = lost or _is_lost(contention, looks, begun, max_seconds)
            if done >= min_runs and (steady or lost or clock() - started >= max_seconds):
                break
            if progress and done < max_runs:
                progress(done, max_runs)
    return samples, contention.words


def _is_lost(contention: Contention, looks: list[float], begun: float, max_seconds: float) -> bool:
    """Whether it is already clear that the timings will count as disturbed.

    `looks` contains the seconds after which the contention is checked. There are few checks, because a check takes a few
    milliseconds.
    """
    passed = time.perf_counter() - begun
    if not looks or passed < looks[0]:
        return False
    looks[:] = [at for at in looks if at > passed]
    return contention.so_far(max_seconds) != ""


def _one_round(
    calls: Mapping[str, Callable[[], Any]],
    samples: dict[str, list[float]],
    wait: Callable[[], None],
    clock: Callable[[], float],
) -> None:
    """Time each call once and append its seconds to its samples."""
    for name, call in calls.items():
        wait()
        before = clock()
        call()
        wait()
        samples[name].append(clock() - before)


def time_call(call: Callable[[], Any], **settings: Any) -> Timing:
    """Time one function. The settings are passed to `compare`."""
    return compare({"call": call}, **settings)["call"]


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """Return the ratio `slow / fast` over the pairs of runs. If the ratio cannot be trusted, its `why` gives the reason.

    The two timings must come from the same call of `compare`. Raises `InvalidRequest` if a run of `fast` took no time, or if
    the timings have different numbers of runs, because such runs were not taken in turn.
    """
    if slow.runs != fast.runs:
        raise InvalidRequest(
            f"a ratio compares runs in pairs, but the timings have {slow.runs} and {counted(fast.runs, 'run')}"
        )
    if not all(sample > 0 for sample in fast.samples):
        raise InvalidRequest("a run took no time that the clock could see; time more work in one call")
    pairs = sorted(zip(slow.samples, fast.samples, strict=True), key=lambda pair: pair[0] / pair[1])
    ratios = Timing(tuple(a / b for a, b in pairs))
    middle = pairs[(len(pairs) - 1) // 2]
    return Ratio(ratios.median, ratios.low, ratios.high, *middle, slow.disturbed or fast.disturbed or _too_wide(ratios))


def _too_wide(ratios: Timing) -> str:
    """Return a reason if there are too few pairs of runs or if their ratios differ too much. Otherwise, return ""."""
    if ratios.runs < FEWEST_PAIRS:
        return f"{ratios.runs} pairs of runs are too few"
    if ratios.spread > WIDEST:
        return "the ratios of the pairs of runs differ too much"
    return ""


def noted(caption: str, ratios: Iterable[Ratio]) -> str:
    """Return the caption of a figure that shows these ratios.

    If a ratio cannot be trusted, a line before the caption says why the bar of the ratio is missing.
    """
    why = next((each.why for each in ratios if each.why), "")
    return f"No bar where times were {too_noisy(why)}.\n{caption}" if why else caption


def waiter(device: Any) -> Callable[[], None]:
    """Return a function that waits until `device` has finished all its work. For a CPU, the function returns at once."""
    if device is not None and str(device).startswith("cuda"):
        import torch

        return lambda: torch.cuda.synchronize(device)
    return lambda: None
