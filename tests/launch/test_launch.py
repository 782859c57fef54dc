"""`launch` runs a function on several processes. The tests check which names the function can use, its results, and its
failures.
"""

from __future__ import annotations

import linecache
import math
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import torch
from torch import distributed as dist

from labkit.errors import InvalidRequest, RankFailed
from labkit.launch import Each, RankRaisedError, launch, shut_down
from labkit.measure.busy_machine import BusyMachine
from tests.busy_core import COUNTED, PINNED, busy_core
from tests.patience import PATIENCE, is_running
from tests.sampled import as_long

FACTOR = 3


def helper(x: Any) -> Any:
    return x * FACTOR


def everything(x: torch.Tensor, own: int, words: dict[str, Any]) -> tuple[Any, ...]:
    rank, ranks = dist.get_rank(), dist.get_world_size()
    total = helper(x + own)
    dist.all_reduce(total)
    gathered = [torch.empty(2) for _ in range(ranks)]
    dist.all_gather(gathered, torch.tensor([float(rank), math.pi]))
    best = torch.tensor([float(rank)])
    dist.all_reduce(best, dist.ReduceOp.MAX)
    dist.broadcast(best, 0)
    if rank == 0:
        dist.send(torch.arange(3), 1)
    elif rank == 1:
        got = torch.empty(3, dtype=torch.int64)
        dist.recv(got, 0)
        return total, torch.cat(gathered), best, words, got
    return total, torch.cat(gathered), best, words


def test_values_come_back_by_rank_and_the_ledger_has_every_collective() -> None:
    x = torch.randn(2, 5)
    launched = launch(everything, 3, x, Each([10, 20, 30]), {"a": [1, None, "b"]}, timeout=PATIENCE, seconds=PATIENCE)
    for rank, value in enumerate(launched.values):
        torch.testing.assert_close(value[0], 3 * (3 * x + 60))
        torch.testing.assert_close(value[1][::2], torch.arange(3.0))
        assert (float(value[2]), value[3]) == (2.0, {"a": [1, None, "b"]})
        own = [(e.what, e.shape, e.byte_count) for e in launched.ledger if e.rank == rank]
        assert own[:4] == [
            ("all_reduce", (2, 5), 40),
            ("all_gather", (2,), 8),
            ("all_reduce", (1,), 4),
            ("broadcast", (1,), 4),
        ]
        assert own[4:] == [[("send", (3,), 24)], [("recv", (3,), 24)], []][rank]
    assert torch.equal(launched.values[1][4], torch.arange(3))
    assert all(0 < entry.seconds < PATIENCE for entry in launched.ledger)


def test_a_function_made_a_moment_ago_takes_along_what_it_uses(capsys: pytest.CaptureFixture[str]) -> None:
    scale, weight = 2.5, torch.arange(4.0)

    def inner(x: torch.Tensor) -> torch.Tensor:
        return x * scale + weight

    def outer(other: Any, x: torch.Tensor) -> list[float]:
        print("seen on", dist.get_rank())
        return (inner(x) + other(x)).tolist()  # type: ignore[no-any-return]

    values = launch(outer, 2, helper, torch.ones(4)).values
    assert values == [[5.5, 6.5, 7.5, 8.5]] * 2
    printed = capsys.readouterr().out
    assert "[rank 0] seen on 0\n" in printed
    assert "[rank 1] seen on 1\n" in printed


def test_functions_of_one_name_stay_two() -> None:
    def same() -> str:
        return "old"

    old = same

    def same() -> str:  # type: ignore[no-redef]
        return old() + " new"

    assert launch(same, 2).values == ["old new"] * 2
    assert launch(old, 2).values == ["old"] * 2
    scope: dict[str, Any] = {"dist": dist}
    for number, source in enumerate(SAME_NAME):  # like cells of a notebook, which share global names
        linecache.cache[f"<cell {number}>"] = (len(source), None, source.splitlines(keepends=True), f"<cell {number}>")
        exec(compile(source, f"<cell {number}>", "exec"), scope)
    assert launch(scope["level"], 2, 3).values == [scope["level"](3)] * 2 == [["old 3", "new 2", "new 1", "new 0"]] * 2


SAME_NAME = (
    "def level(n):\n    return [f'old {n}']\n",
    "old = level\n",
    "def lower(n, how=old):\n    return level(n - 1) if n else []\n",
    "def level(n, first=False):\n    return [*old(n)[:n == 3], *[f'new {n}'][:n < 3], *lower(n)]\n",
)


@dataclass
class Own:
    x: int


def test_what_does_not_travel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Own, "__module__", "__main__")
    table = Own(3)

    def uses_a_class() -> int:
        return Own(2).x

    def uses_a_value() -> int:
        return table.x

    def misspelt() -> int:
        return tabel.x  # type: ignore[name-defined,no-any-return] # noqa: F821

    for function, words in (
        (uses_a_class, r"name 'Own' is not defined .*; Own is a class of yours, which cannot be sent to the ranks; functions"),
        (uses_a_value, r"name 'table' is not defined .*; table is a value of type Own of yours, which cannot be sent"),
        (misspelt, r"name 'tabel' is not defined \(in your line `return tabel.x.*`\)$"),
    ):
        with pytest.raises(RankRaisedError, match=words):
            launch(function, 2)


def pids_of() -> list[int]:
    return list(launch(os.getpid, 2).values)


def test_processes_stay_and_end() -> None:
    first = pids_of()
    assert pids_of() == first
    shut_down()
    assert not any(is_running(pid) for pid in first)
    assert pids_of() != first


def raises(kind: str) -> None:
    if dist.get_rank() == 1:
        raise ValueError("no such thing\nand more")
    if kind == "wait":
        dist.all_reduce(torch.ones(2))


@pytest.mark.parametrize("kind", ["wait", "go on"])
def test_what_a_rank_raises_is_told_at_once(kind: str) -> None:
    with pytest.raises(RankRaisedError, match=r"^rank 1 of 2 on .* failed: ValueError: no such thing$") as caught:
        launch(raises, 2, kind, timeout=PATIENCE)
    assert (caught.value.rank, caught.value.kind) == (1, "ValueError")
    assert launch(os.getpid, 2).values[0] > 0, "the next one runs"


def mismatched(kind: str) -> None:
    rank = dist.get_rank()
    if kind == "absent" and rank == 0:
        dist.all_reduce(torch.ones(2, 3))
    if kind == "recv" and rank == 1:
        dist.recv(torch.ones(4), 0)
    if kind == "shapes":
        dist.all_gather([torch.empty(2) for _ in range(2)], torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            "absent",
            r"rank 0 of 2 on .*: all_reduce of \[2, 3\]: the other ranks did not join .*; rank 1 had already reached the end",
        ),
        ("recv", r"rank 1 of 2 on .*: recv of \[4\] from rank 0: the other ranks did not join"),
        ("shapes", r"rank 0 of 2 on .*all_gather of \[3\]"),
    ],
)
def test_who_waits_in_vain_is_told_for_whom(kind: str, words: str) -> None:
    with pytest.raises(RankFailed, match=words):
        launch(mismatched, 2, kind, timeout=3.0)


def harmed(number: int) -> None:
    if dist.get_rank() == 1:
        os.kill(os.getpid(), number)
        time.sleep(0.1)
    dist.all_reduce(torch.ones(2))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "rank 1 of 2 on .* failed: its process was ended by signal 9"),
        (signal.SIGSTOP, "rank 1 of 2 on .*: this rank did not answer"),
    ],
)
def test_a_rank_that_goes_is_named_and_nothing_is_left(number: int, words: str) -> None:
    before = pids_of()
    with pytest.raises(RankFailed, match=words):
        launch(harmed, 2, int(number), timeout=2.0)
    assert not any(is_running(pid) for pid in before)
    assert len(pids_of()) == 2


def for_ever() -> None:
    while True:
        time.sleep(0.05)


def test_time_is_bounded_and_an_interruption_ends_the_ranks() -> None:
    before = pids_of()
    with pytest.raises(RankFailed, match=r"rank 0 of 2 on .* was not done after 0.5 s"):
        launch(for_ever, 2, seconds=0.5)
    assert not any(is_running(pid) for pid in before)
    before = pids_of()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(1)
    with pytest.raises(KeyboardInterrupt):
        launch(for_ever, 2)
    assert not any(is_running(pid) for pid in before)


def test_what_cannot_be_sent_is_refused_in_words() -> None:
    for call, words in (
        (lambda: launch(helper, 0, 1), "ranks is 0; a whole number from 1 to"),
        (lambda: launch(helper, 2, Each([1])), "Each has 1 value for 2 ranks"),
        (lambda: launch(helper, 2, object()), "an argument is a object; only plain values, tensors and functions"),
        (lambda: launch(lambda x: x, 2, 1), "was not defined by `def`|no source"),
    ):
        with pytest.raises(InvalidRequest, match=words):
            call()


def keeps_rank_0_waiting(kind: str) -> None:
    until = time.monotonic() + PATIENCE
    if kind == "sleeps" and dist.get_rank() == 1:
        time.sleep(PATIENCE)  # a single sleep: after each sleep on a busy machine, the process waits for a core
    while dist.get_rank() == 1 and time.monotonic() < until:
        pass
    dist.barrier()


@PINNED
@COUNTED
@pytest.mark.parametrize(("kind", "timeout"), [("computes", 3.0), as_long("sleeps", 8.0)])
def test_a_wait_in_vain_is_excused_only_if_other_programs_kept_a_rank_waiting(kind: str, timeout: float) -> None:
    for pid in launch(os.getpid, 2, timeout=timeout).values:  # the next call uses the same group, which is connected already
        psutil.Process(pid).cpu_affinity([min(os.sched_getaffinity(0))])
    with busy_core(), busy_core(), BusyMachine() as machine, pytest.raises(RankFailed, match="rank 1 of 2"):
        launch(keeps_rank_0_waiting, 2, kind, timeout=timeout)
    excused = "a rank waited for other ranks that did not join, but other programs kept this one waiting for a core for"
    assert machine.words.startswith(excused) if kind == "computes" else machine.words == ""
