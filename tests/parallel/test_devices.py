"""More ranks than GPUs are refused with a message before a process is started and before a file of the model is read."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import torch

from labkit.checkpoints import config_of, open_checkpoint
from labkit.engine import capacity, loader
from labkit.errors import InsufficientResources, InvalidRequest, NotAvailable
from labkit.parallel import Layout, load_parallel
from labkit.parallel.devices import CPU, rank_device, torchrun_device

CUDA = torch.device("cuda", 0)


@pytest.fixture(params=[0, 1, 2, 5])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Make torch report this number of GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)
    return int(request.param)


WORDS = {
    0: "no GPUs are available; choose device cpu",
    1: "1 GPU is available; choose tensor_parallel x pipeline_parallel = 1, or device cpu",
    2: "2 GPUs are available; choose tensor_parallel x pipeline_parallel = 1 or 2, or device cpu",
    5: "5 GPUs are available; choose tensor_parallel x pipeline_parallel = 1 to 5, or device cpu",
}


def test_more_ranks_than_gpus_are_refused_before_anything_starts(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(NotAvailable) as caught:
        load_parallel("gptj-tiny", Layout(4, 2), device="cuda")
    assert str(caught.value) == f"8 ranks were asked for, one GPU each, but {WORDS[gpus]}"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threads": 100_000}, "threads is 100000; a whole number from 1 to 1024"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"threads": "2"}, "threads is '2'"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": -5}, "seed is -5"),
        ({"name": None}, "name is None"),
        ({"layout": 2}, r"layout is 2; a Layout is accepted, for example Layout\(2, 1\)"),
        ({"layout": Layout("2")}, "tensor_parallel is '2'"),  # type: ignore[arg-type]
    ],
)
def test_arguments_are_refused_before_anything_starts(
    given: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(InvalidRequest, match=words):
        load_parallel(**{"name": "gptj-tiny", "layout": Layout(2, 1)} | given)


def test_each_rank_gets_a_gpu_of_its_own_where_there_are_enough(gpus: int) -> None:
    for ranks in range(1, gpus + 1):
        found = [rank_device(Layout(ranks), "cuda", rank) for rank in range(ranks)]
        assert found == [torch.device("cuda", rank) for rank in range(ranks)]


def test_without_a_name_and_by_name_it_is_the_cpu(gpus: int) -> None:
    assert rank_device(Layout(64), None) == rank_device(Layout(64), "cpu") == CPU
    assert torchrun_device(Layout(64), None) == torchrun_device(Layout(64), "cpu") == CPU


def test_a_single_gpu_and_what_is_no_device_are_refused(gpus: int) -> None:
    with pytest.raises(
        InvalidRequest, match=r"device is 'cuda:1', which is one GPU, but each rank needs its own GPU; cuda or cpu"
    ):
        rank_device(Layout(2), "cuda:1")
    with pytest.raises(InvalidRequest, match="toaster"):
        rank_device(Layout(2), "toaster")


def test_under_torchrun_the_ranks_of_a_host_are_held_against_its_gpus(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    with pytest.raises(InvalidRequest, match="LOCAL_RANK is not set: a rank on a GPU must know"):
        torchrun_device(Layout(4, 2), "cuda")
    for local_ranks in (1, 2, 4):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local_ranks))
        monkeypatch.setenv("LOCAL_RANK", str(local_ranks - 1))
        if local_ranks <= gpus:
            assert torchrun_device(Layout(4, 2), "cuda") == torch.device("cuda", local_ranks - 1)
            continue
        with pytest.raises(NotAvailable) as caught:
            torchrun_device(Layout(4, 2), "cuda")
        words = WORDS[gpus].replace("tensor_parallel x pipeline_parallel", "the ranks of a host")
        assert str(caught.value) == f"8 ranks were asked for, one GPU each, {local_ranks} of them on this host, but {words}"


def test_a_gpu_caches_its_part_and_the_cpu_that_of_all_ranks() -> None:
    config = config_of("gpt-j-6b")
    whole = config.kv_bytes_per_token(2)
    for layout, share in ((Layout(1, 1), 1.0), (Layout(4, 1), 1 / 4), (Layout(1, 3), 10 / 28), (Layout(2, 3), 5 / 28)):
        for rank in range(layout.ranks):
            assert capacity.slot_bytes(config, CUDA, torch.float16, layout.part(rank)) == whole * share, "of the largest stage"
            assert capacity.slot_bytes(config, CPU, torch.float16, layout.part(rank)) == whole


def test_the_cache_is_sized_by_what_a_gpu_holds_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 20 << 30)
    config, limits = config_of("gpt-j-6b"), {"max_batch_size": 256, "max_step_tokens": 512}
    one, four = (
        capacity.num_slots_for(config, CUDA, torch.float16, part=layout.part(0), **limits) for layout in (Layout(1), Layout(4))
    )
    assert abs(four - 4 * one) < 8  # numbers of slots are rounded down, and one slot is for padding


def test_the_weights_are_held_against_each_gpu_by_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "free_bytes", lambda device: 7_000_000_000)
    checkpoint = open_checkpoint("gpt-j-6b-synthetic")
    loader.check_memory(checkpoint, CUDA, "fp16", ranks=2)
    with pytest.raises(InsufficientResources, match=r"needs 12\.7 GB on cuda:0 in fp16, but only 7\.0 GB are free"):
        loader.check_memory(checkpoint, CUDA, "fp16")
    with pytest.raises(
        InsufficientResources, match=r"needs 12\.7 GB for each rank on cuda:0 in fp32, but only 7\.0 GB are free"
    ):
        loader.check_memory(checkpoint, CUDA, "fp32", ranks=2)
