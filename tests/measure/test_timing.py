"""Timing on a device with its own queue and clock: the order of calls, the runs that count, and when the timing ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from labkit.errors import InvalidRequest
from labkit.measure import Contention, Timing, compare, noted, ratio, time_call, timing
from labkit.measure.timing import waiter


class VirtualDevice:
    """A device that queues work and starts it after its launch, as a GPU does.

    Time passes only in its methods, so the figures are exact.
    """

    LAUNCH = 0.001

    def __init__(self) -> None:
        self.now = 0.0
        self.busy_until = 0.0
        self.events: list[str] = []

    def launch(self, name: str, work: float) -> None:
        self.events.append(name)
        self.now += self.LAUNCH
        self.busy_until = max(self.busy_until, self.now) + work

    def wait(self) -> None:
        self.events.append("wait")
        self.now = max(self.now, self.busy_until)

    def clock(self) -> float:
        self.events.append("clock")
        return self.now


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list of disturbances by other programs that attempts find, one for each attempt. Later attempts find none.

    So no test depends on how busy this machine is.
    """
    words: list[str] = []
    monkeypatch.setattr(Contention, "so_far", lambda *_: words.pop(0) if words else "")
    return words


def on(device: VirtualDevice, **settings: Any) -> dict[str, Any]:
    return {"clock": device.clock, "synchronise": device.wait, **settings}


def test_runs_are_interleaved_after_a_warm_up_that_does_not_count() -> None:
    device = VirtualDevice()
    calls = {name: (lambda name=name: device.launch(name, 0.5)) for name in "abc"}
    timings = compare(calls, **on(device, warmup=2, min_runs=4, max_runs=4))
    assert [event for event in device.events if event in calls] == list("abc") * (2 + 4)
    assert [timing.runs for timing in timings.values()] == [4, 4, 4]


def test_every_run_holds_its_own_work_and_nothing_else() -> None:
    device = VirtualDevice()
    works = {"short": iter([9.0, 9.0, 0.25, 0.5, 0.75]), "long": iter([9.0, 9.0, 3.0, 5.0, 4.0])}
    calls = {name: (lambda name=name, work=work: device.launch(name, next(work))) for name, work in works.items()}
    timings = compare(calls, **on(device, warmup=2, min_runs=3, max_runs=3, max_seconds=1e9))
    assert timings["short"].samples == pytest.approx([0.251, 0.501, 0.751])
    assert timings["long"].samples == pytest.approx([3.001, 5.001, 4.001])
    blind = VirtualDevice()
    wrong = time_call(lambda: blind.launch("a", 2.0), clock=blind.clock, synchronise=lambda: None, max_runs=5)
    assert max(wrong.samples) == pytest.approx(VirtualDevice.LAUNCH)  # this shows that the device detects a missing wait


def test_the_queue_is_waited_for_before_each_clock_reading() -> None:
    device = VirtualDevice()
    compare({"a": lambda: device.launch("a", 1.0)}, **on(device, warmup=1, min_runs=3, max_runs=3))
    launched = False
    for event in device.events:
        assert not (event == "clock" and launched), device.events
        launched = event == "a" or (launched and event != "wait")
    assert device.events.count("clock") >= 6


def noisy() -> Iterator[float]:
    while True:
        yield from (1.0, 2.0, 4.0, 8.0)


def test_it_stops_as_soon_as_it_is_steady() -> None:
    device = VirtualDevice()
    steady = time_call(lambda: device.launch("a", 1.0), **on(device, min_runs=6, max_runs=40, max_seconds=1e9))
    assert steady.runs == 6
    works = iter([*[1.0, 3.0] * 3, *[2.0] * 40])
    settling = time_call(
        lambda: device.launch("a", next(works)), **on(device, warmup=0, min_runs=4, max_runs=40, max_seconds=1e9)
    )
    assert 4 < settling.runs < 40
    assert settling.spread <= 0.05


def test_it_stops_at_the_most_runs_and_at_the_time_but_not_before_the_fewest() -> None:
    device, works = VirtualDevice(), noisy()
    noise = time_call(lambda: device.launch("a", next(works)), **on(device, max_runs=17, max_seconds=1e9))
    assert noise.runs == 17
    late = VirtualDevice()
    works = noisy()
    timed = time_call(lambda: late.launch("a", next(works)), **on(late, warmup=0, max_runs=1000, max_seconds=60.0))
    assert 60 / 8 < timed.runs < 60
    assert sum(timed.samples[:-1]) < 60 <= sum(timed.samples)
    least = time_call(lambda: late.launch("a", next(works)), **on(late, min_runs=9, max_runs=1000, max_seconds=1e-9))
    assert least.runs == 9


def test_on_a_busy_machine_it_stops_early_but_not_before_the_fewest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contention, "so_far", lambda *_: "other programs used the processor")
    monkeypatch.setattr(timing, "FIRST_LOOK", 0.0)
    clock = (float(n * n) for n in itertools.count())  # every run is slower than the one before
    found = time_call(lambda: None, min_runs=7, max_runs=1000, max_seconds=1e-9, clock=lambda: next(clock) * 1e-20)
    assert (found.runs, found.disturbed) == (7, "other programs used the processor")


def test_a_disturbed_measurement_is_taken_again(found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    found += ["busy", "busy"]
    device, works = VirtualDevice(), iter([1.0, 1.0, 2.0, 2.0, 3.0, 3.0])
    again = time_call(lambda: device.launch("a", next(works)), **on(device, warmup=0, min_runs=2, max_runs=2, max_seconds=1e3))
    assert (again.samples, again.disturbed) == (pytest.approx((3.001, 3.001)), "")
    found += ["busy"] * 99
    device = VirtualDevice()
    never = time_call(lambda: device.launch("a", 1.0), **on(device, warmup=0, min_runs=2, max_runs=2, max_seconds=1e3))
    assert (device.events.count("a"), never.runs, never.disturbed) == (2 * timing.ATTEMPTS, 2, "busy")
    device = VirtualDevice()
    late = time_call(lambda: device.launch("a", 1.0), **on(device, warmup=0, min_runs=2, max_runs=2, max_seconds=3.0))
    assert (device.events.count("a"), late.disturbed) == (2, "busy")  # more than half of the time has passed


def test_one_unsteady_call_keeps_the_others_running() -> None:
    device, works = VirtualDevice(), noisy()
    calls = {"steady": lambda: device.launch("steady", 1.0), "noisy": lambda: device.launch("noisy", next(works))}
    timings = compare(calls, **on(device, min_runs=5, max_runs=12, max_seconds=1e9))
    assert [timing.runs for timing in timings.values()] == [12, 12]


def test_progress_counts_rounds_and_reaches_its_end() -> None:
    device, seen = VirtualDevice(), list[tuple[int, int]]()
    time_call(
        lambda: device.launch("a", 1.0),
        **on(device, min_runs=3, max_runs=8, progress=lambda done, total: seen.append((done, total))),
    )
    assert [done for done, _ in seen] == [1, 2, 3]
    assert seen[0][1] == 8
    assert seen[-1][0] == seen[-1][1]


def test_progress_reaches_its_end_once_although_a_measurement_is_taken_again(
    found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    found += ["busy"]
    device, seen = VirtualDevice(), list[tuple[int, int]]()
    settings = on(device, min_runs=2, max_runs=2, max_seconds=1e3, progress=lambda done, total: seen.append((done, total)))
    time_call(lambda: device.launch("a", 1.0), **settings)
    assert seen == [(1, 2), (1, 2), (2, 2)]


def test_median_quartiles_and_spread() -> None:
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)
    assert timing.spread == pytest.approx(2 / 3)
    even = Timing((1.0, 2.0, 3.0, 10.0))
    assert (even.low, even.median, even.high) == (1.75, 2.5, 4.75)
    alone = Timing((7.0,))
    assert (alone.low, alone.median, alone.high, alone.spread) == (7.0, 7.0, 7.0, 0.0)
    assert str(Timing((0.002, 0.004, 0.003))) == "3.000 ms (2.500 to 3.500, 3 runs)"


def test_a_ratio_pairs_neighbouring_runs() -> None:
    drift = [1.0, 10.0, 100.0, 1000.0]  # the machine slows down; separate medians would hide that the ratio is always 3
    found = ratio(Timing(tuple(3 * value for value in drift)), Timing(tuple(drift)))
    assert (found.low, found.median, found.high) == pytest.approx((3.0, 3.0, 3.0))
    swings = ratio(Timing((2.0, 8.0, 6.0)), Timing((1.0, 2.0, 2.0)))
    assert (swings.low, swings.median, swings.high) == (2.5, 3.0, 3.5)
    assert str(swings) == "3.00 x (2.50 to 3.50)"


def test_ratios_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="3 and 2 runs"):
        ratio(Timing((1.0, 2.0, 3.0)), Timing((1.0, 2.0)))
    with pytest.raises(InvalidRequest, match="took no time"):
        ratio(Timing((1.0, 2.0)), Timing((1.0, 0.0)))


@pytest.mark.parametrize(
    "settings",
    [
        {"min_runs": 0},
        {"min_runs": 9, "max_runs": 8},
        {"warmup": -1},
        {"max_seconds": 0},
        {"max_seconds": -1.0},
        {"max_seconds": math.nan},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    called: list[int] = []
    with pytest.raises(InvalidRequest, match=r"1 <= min_runs <= max_runs") as refusal:
        time_call(lambda: called.append(1), **settings)
    assert all(str(value) in str(refusal.value) for value in settings.values())
    assert not called
    with pytest.raises(InvalidRequest, match="0 calls"):
        compare({})


def test_whose_queue_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    for device in (None, "cpu", torch.device("cpu")):
        waiter(device)()
    assert waited == []
    for device in ("cuda", "cuda:1", torch.device("cuda", 0)):
        waiter(device)()
    assert waited == ["cuda", "cuda:1", torch.device("cuda", 0)]


def test_a_real_clock_sees_real_work() -> None:
    def work(size: int) -> None:
        torch.ones(size).sum()

    timings = compare({"small": lambda: work(10), "large": lambda: work(3_000_000)}, max_seconds=0.3, max_runs=9)
    assert ratio(timings["large"], timings["small"]).median > 5


def test_a_caption_says_why_a_bar_is_missing() -> None:
    quiet = [ratio(Timing((2.0, 2.0, 2.0)), Timing((1.0, 1.0, 1.0)))]
    assert noted("cpu", quiet) == "cpu"
    first, last = noted("cpu", [*quiet, ratio(Timing((2.0,) * 3, "others were busy"), Timing((1.0,) * 3))]).splitlines()
    assert first.startswith("No bar where times were too noisy to compare; close other programs")
    assert "(others were busy)" in first
    assert last == "cpu"
