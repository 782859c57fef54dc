"""gloo's threads must end before the interpreter ends."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from labkit.errors import RankFailed
from labkit.parallel.gloo_group import GlooGroup
from tests.patience import PATIENCE, wait_for


def groups(folder: Path, timeout: float) -> list[GlooGroup]:
    """The two members of a group, both in this process."""
    store = dist.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: GlooGroup(store, "sums", rank, 2, timeout=timeout), range(2)))


def gloo_threads() -> int:
    found = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread can end at this moment
            found += "gloo" in thread.joinpath("comm").read_text()
    return found


def test_no_thread_is_left_behind_close(tmp_path: Path) -> None:
    before = gloo_threads()
    members = groups(tmp_path, timeout=PATIENCE)
    with ThreadPoolExecutor(2) as pool:
        sums = list(pool.map(lambda member: member.all_reduce(torch.ones(3) + member.rank), members))
        sent = pool.submit(members[0].broadcast, torch.arange(4), 0)
        received = pool.submit(members[1].broadcast, torch.zeros(4, dtype=torch.int64), 0)
        assert sent.result().tolist() == received.result().tolist() == [0, 1, 2, 3]
    assert [found.tolist() for found in sums] == [[3.0] * 3] * 2
    assert gloo_threads() > before
    for member in members:
        member.close()
    wait_for(lambda: gloo_threads() == before, "the end of gloo's threads")


def test_close_does_not_wait_for_a_member_that_does_not_come(tmp_path: Path) -> None:
    here, late = groups(tmp_path, timeout=0.2)
    with pytest.raises(RankFailed, match=r"the other ranks did not join within 0.2 s \(all_reduce of rank 0\)"):
        here.all_reduce(torch.ones(3))
    here.timeout = 1e6  # if `close` waited, it would wait forever
    here.close()
    late.timeout = PATIENCE
    late.all_reduce(torch.ones(3))  # without this call, gloo would wait for the late rank at the end of the tests
