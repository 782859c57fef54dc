"""A batch comes out of its bytes as it went in."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from labkit.model.batch import Batch
from labkit.parallel.task_messages import HEADER, Task, body_bytes, decode, encode, stop_header


def ragged(soft: bool) -> Batch:
    lengths = torch.tensor([7, 1, 12], dtype=torch.int32)
    table = torch.full((3, 40), -1, dtype=torch.int32)  # wider than needed: what lies behind does not travel
    for row, length in enumerate(lengths.tolist()):
        table[row, :length] = torch.randint(1000, (length,), dtype=torch.int32)
    return Batch(
        token_ids=torch.tensor([50_000, 3, 9, 11, 2]),
        positions=torch.tensor([6, 0, 9, 10, 11]),
        slot_mapping=torch.tensor([2**33, 5, 6, 7, 8]),
        starts=torch.tensor([0, 1, 2, 5], dtype=torch.int32),
        slot_table=table,
        lengths=lengths,
        num_decodes=2,
        logit_rows=torch.tensor([0, 4]),
        soft_rows=torch.tensor([2, 3]) if soft else None,
        soft_embeddings=torch.randn(2, 10) if soft else None,
    )


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("freed", [(), (3,), (4, 9, 2)])
def test_a_task_survives_the_wire(soft: bool, freed: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    task = Task(17, ragged(soft), cache=2, slots=99, freed=freed)
    header, body = encode(task)
    assert header.shape == (HEADER,)
    assert body_bytes(header) == len(body)
    found = decode(header, body.clone(), 10)
    assert (found.number, found.cache, found.slots, found.freed) == (17, 2, 99, freed)
    for field in fields(Batch):
        sent, got = getattr(task.batch, field.name), getattr(found.batch, field.name)
        if field.name == "slot_table":
            sent = sent[:, :12]
        if isinstance(sent, torch.Tensor):
            assert torch.equal(sent, got), field.name
            assert sent.dtype == got.dtype
        else:
            assert sent == got


def test_the_end_is_told_by_a_header_alone() -> None:
    assert body_bytes(stop_header()) is None
