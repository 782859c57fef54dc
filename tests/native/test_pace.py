"""The choice whether a call uses helper threads, tested on simulated machines. Only the times of the calls are simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ctypes import c_void_p
from random import Random

import pytest

from labkit import native
from labkit.native.library import library

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})")

Machine = Callable[[bool], tuple[float, float]]
"""A function that is told whether a call uses helpers. It returns the call's time and the time that the calling thread lost
in it, in milliseconds.
"""


@pytest.fixture
def pace() -> Iterator[c_void_p]:
    made = c_void_p(library().lk_pace_create())
    yield made
    library().lk_pace_free(made)


def run(pace: c_void_p, machine: Machine, milliseconds: float, work: int = 10_000_000) -> tuple[float, float]:
    """Simulate calls for some time. Return the mean time of a call, and the share of the calls that used helpers."""
    passed, calls, helped = 0.0, 0, 0
    while passed < milliseconds:
        helpers = bool(library().lk_pace_with_helpers(pace, work))
        took, lost = machine(helpers)
        library().lk_pace_took(pace, work, helpers, int(took * 1e6), int(lost * 1e6))
        passed, calls, helped = passed + took, calls + 1, helped + helpers
    return passed / calls, helped / calls


def idle(step: float) -> Machine:
    return lambda helpers: (step, 0.03 * step) if helpers else (1.8 * step, 0.0)


def busy(step: float, seed: int = 1) -> Machine:
    """With helpers, most calls are as fast as on an idle machine, but some lose the core for milliseconds."""
    random = Random(seed)

    def call(helpers: bool) -> tuple[float, float]:
        stall = 8.0 if helpers and random.random() < min(0.9, step / 4) else 0.0
        return (step if helpers else 1.8 * step) + stall, stall

    return call


@pytest.mark.parametrize("step", [0.1, 0.6, 3.0, 40.0])
def test_on_an_idle_machine_no_call_works_alone(pace: c_void_p, step: float) -> None:
    assert run(pace, idle(step), 3000) == (pytest.approx(step), 1.0)


@pytest.mark.parametrize("step", [0.1, 0.6, 3.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_with_a_busy_core_calls_soon_work_alone(pace: c_void_p, step: float, seed: int) -> None:
    machine = busy(step, seed)
    run(pace, machine, 500)
    mean, helped = run(pace, machine, 4000)
    assert mean < 1.1 * 1.8 * step
    assert helped < 0.1


@pytest.mark.parametrize("step", [0.1, 0.6, 3.0])
def test_helpers_return_when_the_core_is_free_again(pace: c_void_p, step: float) -> None:
    run(pace, busy(step), 3000)
    run(pace, idle(step), 1500)
    assert run(pace, idle(step), 3000) == (pytest.approx(step, rel=0.02), pytest.approx(1.0, abs=0.02))


def test_helpers_that_lose_time_but_still_make_calls_faster_stay(pace: c_void_p) -> None:
    """The machine has long calls, and the helper thread has its core for half of the time."""
    mean, helped = run(pace, lambda helpers: (30.0, 6.0) if helpers else (40.0, 0.0), 20_000)
    assert mean < 31
    assert helped > 0.95


def test_one_slow_call_changes_nothing(pace: c_void_p) -> None:
    calls = iter(range(10**6))
    _, helped = run(pace, lambda helpers: (50.0, 45.0) if helpers and next(calls) == 100 else idle(0.6)(helpers), 2000)
    assert helped > 0.95


def test_calls_of_another_size_are_judged_apart(pace: c_void_p) -> None:
    run(pace, busy(0.6), 1000)
    assert not library().lk_pace_with_helpers(pace, 10_000_000)
    assert library().lk_pace_with_helpers(pace, 3_000_000_000)
