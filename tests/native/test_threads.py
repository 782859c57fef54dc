"""Threads of native calls: any number of threads gives the same bits, on a busy machine too, and a call leaves no changed
setting behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from labkit import native
from labkit.bench.beside import busy_processes
from labkit.model import GPTJ, Batch
from labkit.model.native_forward import NativeForward
from labkit.native import library
from tests.native.test_forward import models, run, scattered_batch
from tests.ops.test_ops import relative

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})")

SPANS = [(1, 38), (1, 7), *6 * [(33, 0), (20, 17), (37, 3)]]
"""A batch that is large enough for each call to use its threads (`worthwhile` in src/piece.h)."""


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls use as many threads as torch, even if there are fewer cores."""
    monkeypatch.setattr(library, "cores_at_start", lambda: 64)


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def logits(model: GPTJ, batch: tuple[Batch, Tensor], threads: int) -> Tensor:
    return run(NativeForward(model, num_threads=threads), model, batch[0], len(batch[1]), 2)[0]


def threads_pinned(allowed: set[int]) -> set[tuple[str, str]]:
    """The id and name of each thread of this process that can use only some of the `allowed` cores."""
    tasks = [task for task in Path("/proc/self/task").iterdir() if os.sched_getaffinity(int(task.name)) != allowed]
    return {(task.name, (task / "comm").read_text().strip()) for task in tasks}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_any_number_of_threads_gives_the_same_bits(precision: str) -> None:
    exact, stored = models("head of 256", precision, seed=11)
    batch = scattered_batch(exact, SPANS, 11)
    alone = logits(stored, batch, 1)
    if precision == "fp32":
        assert relative(alone, run(exact, exact, batch[0], len(batch[1]), 2)[0]) < 1e-5
    for threads in (2, 3, 8, 2):
        assert torch.equal(logits(stored, batch, threads), alone), threads


def test_calls_at_the_same_time_do_not_meet() -> None:
    exact, stored = models("head of 256", "fp32")
    batches = [scattered_batch(exact, [*SPANS, (1 + seed, 2)], seed) for seed in range(6)]
    alone = [logits(stored, batch, 1) for batch in batches]

    def repeat(index: int) -> list[Tensor]:
        return [logits(stored, batches[index], 2 + index % 3) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        for index, found in enumerate(pool.map(repeat, range(len(batches)))):
            assert all(torch.equal(each, alone[index]) for each in found)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="not measured here: the system lists no threads")
def test_threads_that_were_moved_to_another_core_may_use_all_cores_again() -> None:
    """With more threads than cores, and with busy cores, threads lose their core in the middle of a piece of work."""
    exact, stored = models("head of 256", "fp32")
    batch = scattered_batch(exact, SPANS, 3)
    alone, allowed = logits(stored, batch, 1), os.sched_getaffinity(0)
    pinned_before = threads_pinned(allowed)  # another library, used by an earlier test, may have pinned its own threads
    with busy_processes(len(allowed)):
        for _ in range(20):
            assert torch.equal(logits(stored, batch, 5), alone)
    assert not threads_pinned(allowed) - pinned_before


@pytest.mark.usefixtures("many_cores", "torch_threads")
def test_while_the_engine_works_torch_has_one_thread_and_native_calls_have_theirs() -> None:
    _, stored = models("one head of 80", "fp32")
    torch.set_num_threads(3)
    with NativeForward(stored).limited_threads():
        assert (torch.get_num_threads(), library.threads()) == (1, 3)
        with NativeForward(stored).limited_threads():
            assert (torch.get_num_threads(), library.threads()) == (1, 3)
        assert (torch.get_num_threads(), library.threads()) == (1, 3)
    assert (torch.get_num_threads(), library.threads()) == (3, 3)


@pytest.mark.usefixtures("torch_threads")
def test_calls_use_no_more_threads_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(7)
    for cores, threads in ((2, 2), (9, 7)):
        monkeypatch.setattr(library, "cores_at_start", lambda cores=cores: cores)
        assert library.threads() == threads
