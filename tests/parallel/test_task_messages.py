"""Steps, prefixes and headers do not change when they are written as bytes and read back."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from labkit.model.batch import Batch
from labkit.parallel.task_messages import (
    HEADER_WORDS,
    Header,
    OccupyHeader,
    Prefix,
    PrefixHeader,
    ReportHeader,
    StepHeader,
    StopHeader,
    Task,
    decode_header,
    decode_prefix,
    decode_step,
    encode_header,
    encode_prefix,
    encode_step,
)


def ragged(soft: bool) -> Batch:
    lengths = torch.tensor([7, 1, 12], dtype=torch.int32)
    table = torch.full((3, 40), -1, dtype=torch.int32)  # wider than needed: the rest of a row is not sent
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
    encoded, body = encode_step(task)
    words = encode_header(encoded, len(body))
    assert words.shape == (HEADER_WORDS,)
    header, body_bytes = decode_header(words)
    assert isinstance(header, StepHeader)
    assert body_bytes == len(body)
    found = decode_step(header, body.clone(), 10)
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


def test_a_prefix_survives_the_wire() -> None:
    prefix = Prefix(3, 50, torch.tensor([7, 8, 2**33]), torch.randn(2, 2, 4, 3, 5))
    encoded, body = encode_prefix(prefix)
    words = encode_header(encoded, len(body))
    header, body_bytes = decode_header(words)
    assert isinstance(header, PrefixHeader)
    assert body_bytes == len(body)
    found = decode_prefix(header, body.clone())
    assert (found.cache, found.num_slots) == (3, 50)
    assert torch.equal(found.slots, prefix.slots)
    assert torch.equal(found.given, prefix.given)


@pytest.mark.parametrize("header", [StopHeader(), ReportHeader(), OccupyHeader(4, 99)])
def test_a_header_without_a_body_keeps_its_kind_and_fields(header: Header) -> None:
    found, body_bytes = decode_header(encode_header(header))
    assert type(found) is type(header)
    assert (found, body_bytes) == (header, 0)
