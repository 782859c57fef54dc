"""What rank 0 does alone: an exception in its part of a pass ends all ranks, and between two passes it can pause."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import labkit
from labkit import native
from labkit.engine import Engine
from labkit.errors import LabkitError, RankFailed
from labkit.native import shared_group
from labkit.parallel import Layout, load_parallel
from labkit.parallel.local_ranks import LocalRanks
from labkit.parallel.parallel_forward import ParallelForward
from labkit.parallel.task_messages import encode_step
from labkit.serving.python_backend.engine_thread import EngineThread
from tests.models import random_prompts
from tests.parallel.models import save_peer
from tests.patience import PATIENCE, is_running, wait_for
from tests.sampled import one_in

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")

GREEDY = labkit.SamplingParams(max_new_tokens=24, ignore_eos=True)
PROMPTS = random_prompts(211, [30, 4, 17], seed=1)


@pytest.fixture(scope="module", autouse=True)
def own_shared_memory() -> Iterator[None]:
    """A folder in shared memory for these tests only, because other processes create and delete files in shared memory too."""
    shared = shared_group.FOLDER if shared_group.FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="labkit-test-", dir=shared) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_group, "FOLDER", Path(name))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_peer(path)
    return path


def several(folder: Path, layout: Layout, **options: Any) -> tuple[Engine, ParallelForward]:
    engine = load_parallel(folder, layout, dtype="fp32", **options)
    forward = engine.forward
    assert isinstance(forward, ParallelForward)
    return engine, forward


def process_ids(forward: ParallelForward) -> list[int]:
    assert isinstance(forward.ranks, LocalRanks)
    return list(forward.ranks.process_ids.values())


def tokens_of(engine: Engine) -> list[list[int]]:
    return [output.completions[0].token_ids for output in engine.generate(PROMPTS, GREEDY)]


class Fails:
    """Calls a function; call number `at` (counted from 1) raises `error` instead."""

    def __init__(self, call: Callable[..., Any], at: int, error: BaseException) -> None:
        self._call, self._left, self._error = call, at, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __call__(self, *given: Any) -> Any:
        self._left -= 1
        if not self._left:
            raise self._error
        return self._call(*given)


def check_ended(engine: Engine, pids: list[int], first: str) -> None:
    """Every later use says what failed first; no process and no shared file is left."""
    for use in (
        lambda: engine.generate([[1, 2]], GREEDY),
        lambda: list(engine.stream([[1, 2]], GREEDY)),
        lambda: engine.logits([1, 2, 3]),
        engine.forward.ledger,  # type: ignore[attr-defined]
    ):
        with pytest.raises(RankFailed, match=f"{first}; load the model again$"):
            use()
    assert not any(map(is_running, pids))
    assert not list(shared_group.FOLDER.glob("labkit-*"))


@pytest.mark.parametrize("layout", one_in(3, [Layout(2, 1), Layout(1, 2), Layout(2, 2)]))
def test_an_exception_in_the_part_of_rank_0_ends_all_ranks(folder: Path, layout: Layout) -> None:
    engine, forward = several(folder, layout, max_step_tokens=80)
    pids = process_ids(forward)
    stream = engine.stream(PROMPTS, GREEDY)
    for _ in range(4):
        next(stream)
    forward._own = Fails(forward._own, 3, torch.OutOfMemoryError("no memory left for 7 bytes\nand a second line"))  # type: ignore[assignment]
    first = rf"^rank 0 \([^)]*\) on {os.uname().nodename} failed at step \d+: OutOfMemoryError: no memory left for 7 bytes"
    with pytest.raises(RankFailed, match=f"{first}$") as caught:
        list(stream)
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    check_ended(engine, pids, first)
    assert tokens_of(labkit.load(folder, dtype="fp32"))[0], "the process goes on"


@pytest.mark.parametrize("what", ["occupy", "write_prefix_prompt"])
def test_an_exception_in_the_cache_of_rank_0_ends_all_ranks(folder: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, forward = several(folder, Layout(2, 1))
    pids = process_ids(forward)
    monkeypatch.setattr(f"labkit.model.kv_cache.KVCache.{what}", Fails(lambda *_: None, 1, RuntimeError("no room")))
    prefix = torch.randn(5, 2, 4, 3, 24, generator=torch.Generator().manual_seed(6))
    first = r"^rank 0 \(shard 0 of 2\) on .* failed before its first step: RuntimeError: no room"
    with_prefix = labkit.SamplingParams(max_new_tokens=4, prefix_prompt=prefix)
    with pytest.raises(RankFailed, match=f"{first}$"):
        engine.occupy_cache() if what == "occupy" else engine.generate([[1, 2]], with_prefix)
    check_ended(engine, pids, first)


def test_an_interruption_that_cannot_be_delayed_ends_all_ranks_and_is_passed_on(folder: Path) -> None:
    engine, forward = several(folder, Layout(2, 1))
    pids = process_ids(forward)
    forward._own = Fails(forward._own, 3, KeyboardInterrupt())  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, GREEDY)
    check_ended(engine, pids, r"^rank 0 .* failed at step 3: KeyboardInterrupt: ?")


@pytest.mark.parametrize("layout", one_in(2, [Layout(2, 1), Layout(1, 2)]))
def test_an_exception_before_anything_was_sent_leaves_the_ranks_together(
    folder: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is computed again, and a cache that was deleted before the failure is deleted on the other ranks afterwards."""
    engine, _ = several(folder, layout)
    engine.logits([1, 2, 3])  # its cache, the first one, no longer exists
    freed: list[int] = []
    failing = Fails(lambda task: freed.extend(task.freed) or encode_step(task), 1, MemoryError("no memory"))
    monkeypatch.setattr("labkit.parallel.parallel_forward.encode_step", failing)
    assert tokens_of(engine) == tokens_of(labkit.load(folder, dtype="fp32"))
    assert failing._left < 0
    assert freed == [1]
    engine.close()


def test_a_served_engine_reports_the_exception_of_rank_0_to_all_requests(folder: Path) -> None:
    engine, forward = several(folder, Layout(2, 1))
    pids = process_ids(forward)
    forward._own = Fails(forward._own, 5, RuntimeError("no memory"))  # type: ignore[assignment]
    thread = EngineThread(engine)
    failures: list[LabkitError] = []
    for prompt in PROMPTS:
        thread.submit(prompt, GREEDY, on_event=lambda job, event: None, on_failure=failures.append)
    wait_for(lambda: len(failures) == len(PROMPTS), "a failure of every request")
    with pytest.raises(RankFailed, match=r"rank 0 .* RuntimeError: no memory"):
        thread.submit([1, 2], GREEDY, on_event=lambda job, event: None, on_failure=failures.append)
    thread.close()
    assert {type(failure) for failure in failures} == {RankFailed}
    check_ended(engine, pids, r"^rank 0 .* failed at step 5: RuntimeError: no memory")


@pytest.mark.parametrize("layout", one_in(3, [Layout(2, 1), Layout(1, 2), Layout(2, 2)]))
def test_a_paused_stream_keeps_its_ranks(folder: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tokens, the caller pauses for longer than the time limit, while the next passes are already in flight."""
    limit = 0.5
    monkeypatch.setattr("labkit.parallel.loader.LocalRanks", functools.partial(LocalRanks, timeout=limit))
    one = [event.token_id for event in labkit.load(folder, dtype="fp32").stream(PROMPTS, GREEDY)]
    engine, _ = several(folder, layout)
    tokens: list[int] = []
    for number, event in enumerate(engine.stream(PROMPTS, GREEDY)):
        tokens.append(event.token_id)
        if number in (2, 7):
            time.sleep(3 * limit)
    assert sorted(tokens) == sorted(one)
    engine.close()


def test_a_rank_that_is_late_inside_a_pass_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank is stopped, but not for long enough that its signs of life are missed."""
    monkeypatch.setattr("labkit.parallel.loader.LocalRanks", functools.partial(LocalRanks, timeout=0.5))
    monkeypatch.setattr(LocalRanks, "failure", functools.partialmethod(LocalRanks.failure, patience=0.0))
    engine, forward = several(folder, Layout(2, 1))
    (pid,) = process_ids(forward)
    stream = engine.stream(PROMPTS, GREEDY)
    next(stream)
    os.kill(pid, signal.SIGSTOP)
    first = r"^rank 0 .* failed at step \d+: rank 1 \(shard 1 of 2\) did not answer within 0\.5 s"
    with pytest.raises(RankFailed, match=first):
        list(stream)
    check_ended(engine, [pid], f"{first}.*")


@pytest.mark.long
def test_under_torchrun_an_exception_on_rank_0_ends_every_rank_and_is_told(tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(
        "import os\n"
        "from labkit.cli import main\n"
        "from labkit.parallel.rank_forward import RankForward\n"
        "run = RankForward.__call__\n"
        "def fails(self, batch, cache, step=0):\n"
        "    if step == 3:\n"
        "        raise RuntimeError('no memory')\n"
        "    return run(self, batch, cache, step)\n"
        "if os.environ['RANK'] == '0':\n"
        "    RankForward.__call__ = fails\n"
        "main()\n"
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    command = ["generate", "In the beginning", "--max-new-tokens", "20", "--tensor-parallel", "2"]
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0
    told = r"rank 0 \(shard 0 of 2\) on \S+ failed at step 3: RuntimeError: no memory"
    assert re.search(told, done.stderr), done.stderr  # torchrun ends the others as soon as one rank has ended
