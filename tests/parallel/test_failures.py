"""If a rank raises an error, is killed or stops, one error names the rank, and no process or file is left over."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import labkit
from labkit import native
from labkit.engine import Engine
from labkit.errors import InsufficientResources, RankFailed
from labkit.locked_folder import LockedFolder
from labkit.native import shared_group
from labkit.parallel import Layout, load_parallel
from labkit.parallel.local_ranks import PREFIX, RUN, LocalRanks, delete_remains
from tests.models import random_prompts
from tests.parallel.models import save_peer
from tests.patience import is_running, wait_for
from tests.sampled import one_in

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")

LONG = labkit.SamplingParams(max_new_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module", autouse=True)
def own_shared_memory() -> Iterator[Path]:
    """A folder in shared memory for these tests only, because other processes create and delete files in shared memory too."""
    shared = shared_group.FOLDER if shared_group.FOLDER.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="labkit-test-", dir=shared) as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_group, "FOLDER", Path(name))
        yield Path(name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_peer(path)
    return path


def left_behind(pids: list[int]) -> list[str]:
    """The processes and the files in shared memory that a run has left behind."""
    found = [f"process {pid}" for pid in pids if is_running(pid)]
    return found + [path.name for path in shared_group.FOLDER.glob("labkit-*")]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 2)])
@pytest.mark.parametrize(
    ("harm", "cause"),
    [(kill, "its process was ended by signal 9"), (stop, "it gave no sign of life for")],
    ids=["kill", "stop"],
)
@pytest.mark.parametrize("when", one_in(3, ["decode", "prefill", "idle"]))
def test_a_rank_that_goes_is_named(folder: Path, layout: Layout, harm: Callable[[int], None], cause: str, when: str) -> None:
    before = left_behind([])
    engine = load_parallel(folder, layout, dtype="fp32", max_step_tokens=80)
    pids = list(engine.forward.ranks.process_ids.values())  # type: ignore[attr-defined]
    (victim,) = pids
    prompts = random_prompts(211, [30], seed=1)
    if when == "prefill":
        threading.Timer(0.05, harm, (victim,)).start()
        prompts *= 2000  # the prefill would take minutes
    stream = engine.stream(prompts, LONG)
    if when == "decode":
        for _ in range(5):
            next(stream)
        harm(victim)
    elif when == "idle":
        harm(victim)
        time.sleep(0.3)
    with pytest.raises(RankFailed) as caught:
        list(stream)
    message = str(caught.value)
    assert message.startswith("rank 1 (")
    assert os.uname().nodename in message
    assert cause in message
    assert "at step" in message or "before its first step" in message
    with pytest.raises(RankFailed, match="rank 1"):
        engine.generate([[1, 2]], LONG)
    assert left_behind(pids) == before
    assert labkit.load(folder).generate([[1, 2]], LONG)[0].completions[0].token_ids, "the process goes on"


def test_what_a_rank_raises_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A rank raises an error while it reads the weights: the file has a NaN in a tensor that only rank 1 reads."""
    import safetensors.torch

    broken = folder.parent / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    weights["transformer.h.0.mlp.fc_in.weight"][7, 3] = float("nan")  # of the first stage, which rank 1 holds
    safetensors.torch.save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    before = left_behind([])
    with pytest.raises(RankFailed, match=r"rank 1 \(stage 0 of 2\) on .* before its first step: CheckpointError: .*fc_in"):
        load_parallel(broken, Layout(1, 2))
    assert left_behind([]) == before
    assert "[rank 1] " in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="not measured here: only Linux limits another process's memory")
@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_what_a_rank_raises_in_the_middle_is_told(folder: Path, when: str) -> None:
    """A rank runs out of memory in the middle of a run, because its process has a memory limit."""
    before = left_behind([])
    first = load_parallel(folder, Layout(1, 2), dtype="fp32", num_slots=500)
    (pid,) = first.forward.ranks.process_ids.values()  # type: ignore[attr-defined]
    stream = first.stream(random_prompts(211, [30], seed=1), LONG)
    if when == "decode":
        for _ in range(5):
            next(stream)
    limit = psutil.Process(pid).memory_info().vms + (100 << 20)
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
    second = Engine(first.model, forward=first.forward, num_slots=800_000)
    with pytest.raises(RankFailed, match=r"rank 1 \(stage 0 of 2\) on .* at step \d+: RuntimeError: .*memory"):
        second.generate([[1, 2]], LONG)
    with pytest.raises(RankFailed, match="rank 1"):
        list(stream)
    assert left_behind([pid]) == before


def test_ranks_end_with_the_process_that_started_them(
    folder: Path, own_shared_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess
    import sys

    script = (
        "import sys, time, labkit\n"
        "from pathlib import Path\n"
        "from labkit.native import shared_group\n"
        f"shared_group.FOLDER = Path({str(own_shared_memory)!r})\n"
        "from labkit.parallel import Layout, load_parallel\n"
        f"engine = load_parallel({str(folder)!r}, Layout(2, 1))\n"
        "print(*engine.forward.ranks.process_ids.values(), flush=True)\n"
        "time.sleep(3600)\n"
    )
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environ)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 1
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(is_running(pid) for pid in pids), "the end of the ranks of a process that was killed")
    assert not left_behind([])  # the shared files were deleted when all ranks had opened them
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert list(tmp_path.glob(f"{PREFIX}*"))
    delete_remains()
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_the_next_run_deletes_what_killed_runs_left_behind_and_nothing_else(
    folder: Path, own_shared_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with load_parallel(folder, Layout(2, 1)) as engine:
        (alive,) = tmp_path.glob(f"{PREFIX}*")
        dead, early = (LockedFolder(PREFIX, tmp_path) for _ in range(2))
        files = [shared_group.shared_file("test", 8) for _ in range(2)]
        (dead.path / RUN).write_text(json.dumps({"groups": {"tasks": str(files[0])}, "heartbeats": str(files[1])}))
        delete_remains()
        assert set(tmp_path.iterdir()) == {alive, dead.path, early.path}
        os.close(dead.lock)  # as when the owner is killed
        os.close(early.lock)
        LocalRanks(Layout(), {"threads": 1}).close()
        assert list(tmp_path.iterdir()) == [alive]
        assert not left_behind([])
        engine.generate([[1, 2]], labkit.SamplingParams(max_new_tokens=2))


def test_too_little_shared_memory_is_an_error_and_leaves_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("not measured here: this system does not tell whether there is room")
    allocate: Callable[[int, int, int], None] = os.posix_fallocate
    taken: list[int] = []

    def full(handle: int, offset: int, size: int) -> None:
        taken.append(size)
        if len(taken) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(handle, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InsufficientResources, match=r"need .* MB more of shared memory in .*, which has .*--shm-size"):
        load_parallel(folder, Layout(2, 1))
    assert not left_behind([])


def test_a_forgotten_engine_ends_its_ranks(folder: Path) -> None:
    import gc

    def use() -> list[int]:
        engine: Engine | Any = load_parallel(folder, Layout(2, 1))
        engine.generate([[1, 2]], LONG)
        return list(engine.forward.ranks.process_ids.values())

    before, pids = left_behind([]), use()
    gc.collect()
    wait_for(lambda: left_behind(pids) == before, "the end of the ranks of an engine that nobody holds")
