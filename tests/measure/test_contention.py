"""Measurements on a core that is really busy: another process spins on the same core."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from labkit.measure import Contention, KeptRuns, Timing, contention, ratio
from labkit.measure.disturbed import CELL_AGAIN
from labkit.measure.timing import TOO_NOISY
from tests.busy_core import COUNTED, FIRST_CORE, PINNED, busy_core
from tests.patience import PATIENCE

SHARED = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from pathlib import Path
from labkit.measure import ceilings, compare, ratio, Ceilings, KeptRuns
small, large = torch.ones(100_000), torch.ones(400_000)
calls = {"slow": large.sum, "fast": small.sum}
found = compare(calls, max_runs=2000, spread_target=0, max_seconds=2)
print(ratio(found["slow"], found["fast"]).words)
kept = lambda: Ceilings(**KeptRuns("00", Path(sys.argv[1])).keep("limits", ceilings("cpu", seconds=0.5).to_dict))
print(kept().caption("on a processor"))
kept()
"""


@pytest.fixture
def spinner() -> Iterator[int]:
    """The id of a process that spins on the first core."""
    with busy_core() as process:
        yield process


@PINNED
@COUNTED
@pytest.mark.usefixtures("spinner")
def test_what_is_measured_on_a_busy_core_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHARED, str(tmp_path / "runs.json")], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith(f"{TOO_NOISY}; {CELL_AGAIN} (other programs kept this one waiting for a core for")
    assert " x (" not in said[0]
    assert f"To get a better one, {CELL_AGAIN}" in said[1]
    assert said[2] == "on a processor"
    assert said[3] == "The machine was busy when its limits were measured, so they are too low."
    assert "was disturbed (other programs" in said[4]
    assert said[4].endswith("it is repeated now.")


@PINNED
@COUNTED
@pytest.mark.usefixtures("spinner")
def test_a_child_that_waits_for_a_core_counts_as_waiting() -> None:
    """This process sleeps, and its child shares a core with the spinning process."""
    with subprocess.Popen([sys.executable, "-c", f"{FIRST_CORE}\nwhile True: pass"]) as child, Contention() as found:
        _wait_for_processor_time(child.pid, 1.0)
        seen = found.so_far()
        child.kill()
    assert seen.startswith("other programs kept this one waiting for a core for")


@PINNED
@COUNTED
@pytest.mark.parametrize("used_by_others", [0.0, 60.0])
def test_waiting_for_the_own_child_counts_only_if_others_used_the_processor(
    spinner: int, used_by_others: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = contention._used_by_all()
    readings = iter([machine, machine + used_by_others])
    monkeypatch.setattr(contention, "_stolen", lambda: [0.0])
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        monkeypatch.setattr(contention, "_used_by_all", lambda: next(readings))
        with Contention() as found:
            _share_the_core(0.3)
    finally:
        os.sched_setaffinity(0, cores)
    said = "other programs kept this one waiting for a core for"
    assert found.words.startswith(said) if used_by_others else found.words == ""


def _share_the_core(seconds: float) -> None:
    """Compute until this thread has waited, ready to run, for `seconds` seconds because another thread had its core."""
    path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    before = int(path.read_text().split()[1])
    while int(path.read_text().split()[1]) - before < seconds * 1e9:
        pass


ENDLESS = """
import itertools, os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from labkit.measure import time_call

def compute():
    end = time.process_time() + 0.01
    while time.process_time() < end:
        pass

# By this clock hardly any time passes, and each run is slower than the last: only a disturbance can end the rounds.
clock = (1e-15 * n * n for n in itertools.count())
timing = time_call(compute, max_runs=10**6, max_seconds=2.0, clock=lambda: next(clock))
print(timing.runs < 10**6, timing.disturbed)
"""


@PINNED
@COUNTED
@pytest.mark.usefixtures("spinner")
def test_a_measurement_ends_when_it_is_clear_that_it_was_disturbed() -> None:
    with busy_core():  # a second spinning process, so that the program waits for more than half of the time
        done = subprocess.run([sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True other programs kept this one waiting for a core for")


def test_what_is_clear_depends_on_how_long_a_block_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter([0.0, 5.0, 5.0, 60.0])
    monkeypatch.setattr(
        contention, "_read", lambda *roots: contention._Reading({(1, "1"): (now := next(waited))}, now, now, [0.0])
    )
    with Contention() as found:
        assert found.so_far(24.0)
        assert not found.so_far(26.0)
    assert found.words == "other programs kept this one waiting for a core for most of the time"


@pytest.mark.parametrize("in_turn", [False, True])
def test_of_a_program_in_turn_the_waiting_of_all_processes_counts(in_turn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter([0.0, 4.0, 4.0, 4.0])
    threads = [(process, thread) for process in (1, 2, 3) for thread in ("main", "loop")]
    monkeypatch.setattr(
        contention,
        "_read",
        lambda *roots: contention._Reading(dict.fromkeys(threads, now := next(waited)), now, 3 * now, [0.0]),
    )
    with Contention(in_turn=in_turn) as found:
        assert bool(found.so_far(20.5)) is in_turn
        assert not found.so_far(36.0) if in_turn else found.so_far(9.0)


def test_processor_time_of_descendants_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor time of descendants is not counted as that of other programs, even after a descendant has ended."""
    monkeypatch.setattr(contention, "_used_by_all", lambda: 0.0)
    before = contention._read(os.getpid()).others
    grandchild = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    spins = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", grandchild, spins], check=True)
    assert before - contention._read(os.getpid()).others >= 0.4


def test_a_program_may_consist_of_several_processes(spinner: int) -> None:
    """The processor time of each process is counted once."""
    used = psutil.Process(spinner).cpu_times().user
    _wait_for_processor_time(spinner, 0.5)
    alone, twice = contention._read(os.getpid()), contention._read(os.getpid(), os.getpid())
    assert twice.own < 1.5 * alone.own
    assert contention._read(os.getpid(), spinner).own >= alone.own + used + 0.5


def test_without_counts_of_the_kernel_others_are_seen_by_their_processor_time(
    spinner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sleeping program has lost no time to other programs. This is seen even if the kernel counts no waiting time."""
    monkeypatch.setattr(contention, "_waited_by_thread", lambda program: {})
    monkeypatch.setattr(contention, "usable_cores", lambda: 1)
    with busy_core() as works, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as sleeps:
        with Contention(works) as of_worker, Contention(sleeps.pid) as of_sleeper:
            _wait_for_processor_time(spinner, 1.5)
        sleeps.communicate(b"\n")
    assert of_worker.words.startswith("other programs used ")
    assert of_sleeper.words == ""


def _wait_for_processor_time(pid: int, seconds: float) -> None:
    """Sleep until another process has used this many more seconds of processor time."""
    process = psutil.Process(pid)
    before = process.cpu_times().user
    while process.cpu_times().user - before < seconds:
        time.sleep(0.01)


def test_pairs_that_differ_are_not_one_number() -> None:
    steady = ratio(Timing((0.002, 0.0042, 0.0063)), Timing((0.001, 0.002, 0.003)))
    assert steady.trusted
    assert steady.words == "4.200 ms against 2.000 ms: 2.10 x (2.05 to 2.10)"
    assert steady.slow / steady.fast == steady.median == steady.shown
    wide = ratio(Timing((6.9, 1.0, 0.4, 5.0)), Timing((0.2, 0.9, 0.3, 0.21)))
    assert not wide.trusted
    assert str(wide) == TOO_NOISY
    assert wide.shown != wide.shown  # NaN: no bar
    assert wide.words.startswith(f"{TOO_NOISY}; {CELL_AGAIN} (the ratios of the pairs of runs differ too much")
    assert not ratio(Timing((1.0, 1.0)), Timing((1.0, 1.0))).trusted  # two pairs have no spread to judge by
    disturbed = ratio(Timing((2.0,) * 5, "another program ran"), Timing((1.0,) * 5))
    assert (disturbed.trusted, disturbed.why) == (False, "another program ran")


def test_timings_that_cannot_be_compared_are_taken_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = KeptRuns("01", tmp_path / "runs.json")
    noisy = {"a": Timing((6.9, 1.0, 0.4, 5.0)), "b": Timing((0.2, 0.9, 0.3, 0.21))}
    quiet = {"a": Timing((2.0, 2.1, 2.0)), "b": Timing((1.0, 1.0, 1.0))}
    assert not ratio(*runs.keep_timings("pair", lambda: noisy).values()).trusted
    assert CELL_AGAIN in capsys.readouterr().out
    assert runs.keep_timings("pair", lambda: quiet) == quiet
    assert "it is repeated now" in capsys.readouterr().out
    assert runs.keep_timings("pair", lambda: noisy) == quiet
    assert "was kept from" in capsys.readouterr().out
