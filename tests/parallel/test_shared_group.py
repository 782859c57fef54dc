"""Collectives through shared memory are right for every size and give all members the same bits; no member waits forever."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import native
from labkit.errors import RankFailed
from labkit.native.shared_group import SLOT_BYTES, SharedGroup
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")


def together(ranks: int, work: Callable[[SharedGroup], Any], timeout: float = PATIENCE) -> list[Any]:
    """The result of `work` for each member, run in threads instead of processes; for a group this makes no difference."""
    path, found = SharedGroup.create(ranks), [None] * ranks

    def member(rank: int) -> None:
        try:
            found[rank] = work(SharedGroup(path, rank, ranks, timeout=timeout))
        except Exception as error:
            found[rank] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=member, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    Path(path).unlink()
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 17, 4096, SLOT_BYTES // 4, SLOT_BYTES // 4 + 1, 3 * SLOT_BYTES // 4 + 5])
def test_all_reduce_is_the_sum_in_the_order_of_the_ranks(ranks: int, count: int) -> None:
    torch.manual_seed(count)
    given = torch.randn(5, ranks, count)
    expected = [sum(given[turn, 1:], given[turn, 0].clone()) for turn in range(5)]
    found = together(ranks, lambda group: [group.all_reduce(given[turn, group.rank].clone()) for turn in range(5)])
    for member in found:
        assert all(torch.equal(a, b) for a, b in zip(member, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_all_reduce_of_halves_is_rounded_once(dtype: torch.dtype) -> None:
    given = torch.randn(3, 513, generator=torch.Generator().manual_seed(5)).to(dtype)
    expected = (given[0].float() + given[1].float() + given[2].float()).to(dtype)
    assert all(torch.equal(made, expected) for made in together(3, lambda group: group.all_reduce(given[group.rank].clone())))


@pytest.mark.parametrize("size", [1, SLOT_BYTES, SLOT_BYTES + 3])
def test_broadcast_and_gather_between_other_calls(size: int) -> None:
    data = torch.randint(256, (3, size), dtype=torch.uint8)

    def work(group: SharedGroup) -> Any:
        made = []
        for root in (0, 2, 1, 1, 0):
            made.append(group.broadcast(data[root].clone() if group.rank == root else torch.zeros_like(data[0]), root))
            made.append(group.gather(data[group.rank], root))
            made.append(group.all_reduce(torch.full((7,), float(group.rank))))
        return made

    for rank, made in enumerate(together(3, work)):
        for turn, root in enumerate((0, 2, 1, 1, 0)):
            sent, gathered, summed = made[3 * turn : 3 * turn + 3]
            assert torch.equal(sent, data[root])
            assert torch.equal(gathered, data) if rank == root else gathered is None
            assert summed.tolist() == [3.0] * 7


def test_a_wait_without_a_limit_sleeps() -> None:
    """A member that waits for a late one neither gives up nor keeps its core busy."""
    waited = 0.6

    def work(group: SharedGroup) -> tuple[float, float]:
        time.sleep(waited * group.rank)
        busy = time.thread_time()
        summed = group.all_reduce(torch.ones(3))
        return float(summed.sum()), time.thread_time() - busy

    (first, busy), (second, _) = together(2, work, timeout=math.inf)
    assert (first, second) == (6.0, 6.0)
    assert busy < waited / 3


def test_a_quick_sender_does_not_overwrite_what_a_slow_reader_has_not_read() -> None:
    def work(group: SharedGroup) -> list[int]:
        found = []
        for turn in range(50):
            if group.rank and turn % 7 == 0:
                time.sleep(0.002 * group.rank)
            found.append(int(group.broadcast(torch.tensor([turn if group.rank == 0 else -1]), 0)))
        return found

    assert together(3, work) == [list(range(50))] * 3


def test_who_does_not_come_is_named_in_time() -> None:
    def work(group: SharedGroup) -> None:
        brief, group.timeout = group.timeout, PATIENCE
        group.all_reduce(torch.ones(3))  # all members take part in this sum, even if they are late
        group.timeout = brief
        if group.rank != 1:
            group.all_reduce(torch.ones(3))

    first, second, third = together(3, work, timeout=2.0)
    assert second is None
    for error in (first, third):
        assert isinstance(error, RankFailed)
        assert "rank 1 did not answer within 2 s (all_reduce of rank" in str(error)


def test_abort_releases_everybody() -> None:
    def work(group: SharedGroup) -> None:
        if group.rank == 0:
            time.sleep(0.2)
            group.abort()
        else:
            group.all_reduce(torch.ones(3))

    found = together(3, work)
    for error in found[1:]:
        assert isinstance(error, RankFailed)
        assert "all others were told to stop" in str(error)


def test_a_broadcast_that_comes_late_can_be_waited_for_again() -> None:
    tried_twice = threading.Event()

    def work(group: SharedGroup) -> list[int]:
        target, tries = torch.tensor([5 if group.rank == 0 else 0]), 0
        if group.rank == 0:
            assert tried_twice.wait(PATIENCE)
        while group.try_broadcast(target, 0):
            tries += 1
            if group.rank == 1 and tries == 2:
                tried_twice.set()
        return [int(target), tries]

    (_, _), (value, tries) = together(2, work, timeout=0.1)
    assert value == 5
    assert tries >= 2
