"""Encodes the tasks that rank 0 sends to the other ranks: a header of fixed length, then a body whose length is in the header.

Each kind of header is declared once, as a named tuple. The arrays in the body of a step are also declared once. Encoding and
decoding are derived from these declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.model.batch import Batch

HEADER_WORDS = 16
"""Every header is a tensor of this many int64 numbers: the kind, the size of the body in bytes, the fields of the header, and
zeros.
"""

DONE = b"done"
"""The answer of a rank to a task that has no other result."""


class StopHeader(NamedTuple):
    """Tells the rank to end."""


class ReportHeader(NamedTuple):
    """Asks each rank to send its ledger."""


class OccupyHeader(NamedTuple):
    """Tells each rank to allocate memory for `num_slots` slots now, for the cache with the number `cache`."""

    cache: int
    num_slots: int


class PrefixHeader(NamedTuple):
    """Tells each rank to write keys and values to a cache.

    The body holds slot numbers int64 `[length]`, then keys and values float32 `[num_layers, keys_and_values, num_heads, length,
    head_dim]`.
    """

    cache: int
    num_slots: int
    num_layers: int
    keys_and_values: int
    num_heads: int
    length: int
    head_dim: int


class StepHeader(NamedTuple):
    """Tells each rank to run its part of a step; the body holds the arrays of `body_arrays`, one after another."""

    number: int
    cache: int
    num_slots: int
    num_tokens: int
    num_sequences: int
    table_width: int
    num_logit_rows: int
    num_decodes: int
    num_soft_rows: int
    num_freed: int

    def body_arrays(self, hidden_size: int) -> tuple[tuple[str, torch.dtype, int], ...]:
        """Name, dtype and length of each array of the body, in order."""
        i64, i32 = torch.int64, torch.int32
        soft: tuple[tuple[str, torch.dtype, int], ...] = ()
        if self.num_soft_rows:
            length = self.num_soft_rows * hidden_size
            soft = ("soft_rows", i64, self.num_soft_rows), ("soft_embeddings", torch.float32, length)
        return (
            ("freed", i64, self.num_freed),
            ("token_ids", i64, self.num_tokens),
            ("positions", i64, self.num_tokens),
            ("slot_mapping", i64, self.num_tokens),
            ("logit_rows", i64, self.num_logit_rows),
            *soft,
            ("starts", i32, self.num_sequences + 1),
            ("lengths", i32, self.num_sequences),
            ("slot_table", i32, self.num_sequences * self.table_width),
        )


Header = StopHeader | ReportHeader | OccupyHeader | PrefixHeader | StepHeader
_KINDS: tuple[type[Header], ...] = (StopHeader, ReportHeader, OccupyHeader, PrefixHeader, StepHeader)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}


def encode_header(header: Header, body_bytes: int = 0) -> Tensor:
    """Return the header as `[HEADER_WORDS]` int64. It says that a body of `body_bytes` bytes follows."""
    zeros = [0] * (HEADER_WORDS - 2 - len(header))
    return torch.tensor([_NUMBERS[type(header)], body_bytes, *header, *zeros], dtype=torch.int64, device="cpu")


def decode_header(words: Tensor) -> tuple[Header, int]:
    """Return the header, and the size in bytes of the body that follows the header."""
    number, body_bytes, *fields = words.tolist()
    kind = _KINDS[number]
    return kind(*fields[: len(kind._fields)]), body_bytes


@dataclass(frozen=True)
class Task:
    """A step that a rank must compute.

    First the caches with the numbers in `freed` are deleted. Then `batch` runs over the cache with the number `cache`, which
    has `slots` slots.
    """

    number: int
    batch: Batch
    cache: int
    slots: int
    freed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prefix:
    """Keys and values to write to a cache.

    `given` `[num_layers, 2, num_heads, length, head_dim]` is written to the slots `slots` of the cache with the number `cache`.
    """

    cache: int
    num_slots: int
    slots: Tensor
    given: Tensor


def encode_prefix(prefix: Prefix) -> tuple[PrefixHeader, Tensor]:
    """Return the header, and the body as a uint8 tensor. Keys and values are sent as float32."""
    parts = (
        prefix.slots.long().contiguous().view(torch.uint8),
        prefix.given.cpu().float().contiguous().view(-1).view(torch.uint8),
    )
    return PrefixHeader(prefix.cache, prefix.num_slots, *prefix.given.shape), torch.cat(parts)


def decode_prefix(header: PrefixHeader, body: Tensor) -> Prefix:
    """The prefix that `encode_prefix` turned into bytes."""
    cache, num_slots, *shape = header
    end = 8 * header.length
    return Prefix(cache, num_slots, body[:end].view(torch.int64), body[end:].view(torch.float32).view(shape))


def encode_step(task: Task) -> tuple[StepHeader, Tensor]:
    """Return the header, and the body as a uint8 tensor."""
    batch = task.batch
    soft_rows, soft_embeddings = batch.soft_rows, batch.soft_embeddings
    width = int(batch.lengths.max())
    header = StepHeader(
        number=task.number,
        cache=task.cache,
        num_slots=task.slots,
        num_tokens=batch.num_tokens,
        num_sequences=batch.num_sequences,
        table_width=width,
        num_logit_rows=len(batch.logit_rows),
        num_decodes=batch.num_decodes,
        num_soft_rows=0 if soft_rows is None else len(soft_rows),
        num_freed=len(task.freed),
    )
    arrays = vars(batch) | {
        "freed": torch.tensor(task.freed, dtype=torch.int64, device="cpu"),
        "soft_embeddings": None if soft_embeddings is None else soft_embeddings.float(),
        "slot_table": batch.slot_table[:, :width],
    }
    parts = [np.ascontiguousarray(arrays[name].numpy()).reshape(-1).view(np.uint8) for name, _, _ in header.body_arrays(0)]
    return header, torch.from_numpy(np.concatenate(parts))


def decode_step(header: StepHeader, body: Tensor, hidden_size: int) -> Task:
    """The task that `encode_step` turned into bytes; its tensors share the memory of the body."""
    arrays: dict[str, Tensor] = {}
    begin = 0
    for name, dtype, length in header.body_arrays(hidden_size):
        end = begin + length * dtype.itemsize
        arrays[name] = body[begin:end].view(dtype)
        begin = end
    freed = tuple(arrays.pop("freed").tolist())
    arrays["slot_table"] = arrays["slot_table"].view(header.num_sequences, header.table_width)
    if header.num_soft_rows:
        arrays["soft_embeddings"] = arrays["soft_embeddings"].view(header.num_soft_rows, hidden_size)
    batch = Batch(**arrays, num_decodes=header.num_decodes)
    return Task(header.number, batch, header.cache, header.num_slots, freed)
