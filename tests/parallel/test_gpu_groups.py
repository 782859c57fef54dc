"""Groups of ranks on GPUs, which use the same operations as a single GPU. No test of this file runs NCCL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from labkit import native
from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.errors import NotAvailable
from labkit.model import GPTJ, Batch, FixedBatches, KVCache
from labkit.model.part import WHOLE, Part
from labkit.native.shared_group import SharedGroup
from labkit.parallel import Layout
from labkit.parallel import links as links_module
from labkit.parallel.devices import CPU
from labkit.parallel.links import Links, create_groups
from labkit.parallel.nccl_group import GUARDS_OFF, NcclGroup, _environment
from labkit.parallel.rank_forward import RankForward
from tests.models import random_prompts
from tests.parallel.models import save_peer
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")

CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_peer(path)
    return path


def files_of(layout: Layout, device: torch.device, request: pytest.FixtureRequest) -> dict[str, Path]:
    paths = create_groups(layout, device)
    for path in paths.values():
        request.addfinalizer(path.unlink)
    return paths


@pytest.mark.skipif(dist.is_nccl_available(), reason="not measured here: what torch without NCCL says, since this one has it")
def test_without_nccl_ranks_on_gpus_are_refused() -> None:
    with pytest.raises(NotAvailable, match=r"ranks on GPUs communicate through NCCL, but torch .* was built without NCCL"):
        NcclGroup(None, "sums 0", 0, 2, device=CUDA)


@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 3), Layout(2, 2)])
def test_what_lies_on_gpus_goes_over_nccl_and_tasks_do_not(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The members of each group agree on its name, and each member is in the group exactly once."""
    opened: dict[str, list[tuple[int, torch.device, tuple[str, ...]]]] = {}

    def note(store: Any, name: str, rank: int, ranks: int, *, device: torch.device, names: tuple[str, ...]) -> None:
        assert ranks == len(names)
        opened.setdefault(name, []).append((rank, device, names))

    monkeypatch.setattr(links_module, "NcclGroup", note)
    paths = files_of(layout, CUDA, request)
    assert list(paths) == ["tasks"]
    for rank in range(layout.ranks):
        device = torch.device("cuda", rank)
        links = Links.shared(layout, rank, paths, 5.0, device=device, meeting=tmp_path / "meeting")
        assert isinstance(links.tasks, SharedGroup)
        assert links.device == device
    for name, members in opened.items():
        assert sorted(rank for rank, _, _ in members) == list(range(len(members)))
        (names,) = {names for _, _, names in members}
        assert [layout.name(device.index) for _, device, _ in sorted(members, key=lambda m: m[0])] == list(names), name
    assert set(opened) == {name for name in files_of(layout, CPU, request) if name != "tasks"}, "those of the CPU"


def test_torchs_own_guards_are_off_while_a_group_is_made_and_as_before_then(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = GUARDS_OFF
    monkeypatch.setenv(first, "3")
    monkeypatch.delenv(second, raising=False)
    with _environment(GUARDS_OFF):
        assert {name: os.environ[name] for name in GUARDS_OFF} == GUARDS_OFF
    assert os.environ[first] == "3"
    assert second not in os.environ


@pytest.mark.parametrize("soft", [False, True])
def test_a_batch_goes_to_a_device_whole(soft: bool) -> None:
    batch = FixedBatches(2, 9, CPU).prefill([torch.tensor([3, 4, 5]), torch.tensor([6])])
    if soft:
        given = {"soft_rows": torch.tensor([1]), "soft_embeddings": torch.randn(1, 8)}
        batch = Batch(**({field.name: getattr(batch, field.name) for field in fields(Batch)} | given))
    assert batch.to(CPU) is batch
    moved = batch.to(torch.device("meta"))
    for field in fields(Batch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype)
        else:
            assert after == before


def together(layout: Layout, paths: dict[str, Path], work: Callable[[Links], Any]) -> list[Any]:
    """The result of `work` for each rank, run in threads instead of processes."""
    found: list[Any] = [None] * layout.ranks

    def rank(number: int) -> None:
        try:
            found[number] = work(Links.shared(layout, number, paths, 20.0))
        except Exception as error:
            found[number] = error

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(layout.ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return found


@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 2), Layout(2, 2), Layout(1, 3)])
def test_operation_by_operation_ranks_give_the_logits_of_one_process(
    layout: Layout, folder: Path, request: pytest.FixtureRequest
) -> None:
    """The ranks compute as on GPUs: without the native pass, with `add_up` for sums, and with hidden states in the model's
    dtype.
    """
    checkpoint = open_checkpoint(folder)

    shapes = expected_shapes(checkpoint.config)

    def model_of(part: Part) -> GPTJ:
        def read(name: str) -> torch.Tensor:
            return checkpoint.read(name, dtype=torch.float32, **(part.slices(name, shapes[name]) or {}))

        return GPTJ.from_tensors(checkpoint.config, read, part=part)

    prompts = [torch.tensor(row) for row in random_prompts(211, [70, 5, 66], seed=1)]

    def run(model: GPTJ, forward: Callable[[Batch, KVCache], Any]) -> list[Any]:
        cache = KVCache(model.config, 3 * 80, device=CPU, dtype=model.dtype, part=model.part)
        batches = FixedBatches(3, 80, CPU)
        made = [forward(batches.prefill(prompts), cache)]
        return [*made, forward(batches.decode(torch.tensor([7, 8, 9])), cache)]

    def of_rank(links: Links) -> list[Any]:
        model = model_of(links.part)
        return run(model, RankForward(model, links, 1))

    one = model_of(WHOLE)
    expected = run(one, one.forward)
    first, *others = together(layout, files_of(layout, CPU, request), of_rank)
    for found, logits in zip(first, expected, strict=True):
        assert torch.allclose(found, logits, rtol=1e-4, atol=1e-4)
    assert others == [[None, None]] * (layout.ranks - 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_hidden_state_goes_from_stage_to_stage_in_its_own_dtype(dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    given, layout = torch.randn(6, 32).to(dtype), Layout(1, 2)

    def work(links: Links) -> Any:
        if not links.part.first:
            return links.receive_hidden(6, 32, dtype)
        assert links.receive_hidden(6, 32, dtype) is None
        return links.send_hidden(given)

    last, first = together(layout, files_of(layout, CPU, request), work)
    assert first is None
    assert torch.equal(last, given)
    assert last.dtype == dtype
