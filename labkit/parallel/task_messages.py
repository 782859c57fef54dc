"""What the ranks are to do, as bytes: a header of fixed length, which says how long the rest is, and the rest."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labkit.model.batch import Batch

HEADER = 16
DONE = b"done"
"""What a rank gives where the others only wait for it."""
STEP, STOP, REPORT, PREFIX, OCCUPY = 1, 2, 3, 4, 5
_KIND, _BYTES, _TOKENS, _SEQUENCES, _WIDTH, _ROWS, _DECODES, _SOFT, _FREED, _CACHE, _SLOTS, _NUMBER = range(12)


@dataclass(frozen=True)
class Task:
    """What a rank is to do: compute `batch` over cache number `cache` of `slots` slots, and forget the caches in `freed`."""

    number: int
    batch: Batch
    cache: int
    slots: int
    freed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prefix:
    """What a rank is to write: `given` `[num_layers, 2, num_heads, length, head_dim]` to `slots` of cache number `cache`."""

    cache: int
    num_slots: int
    slots: Tensor
    given: Tensor


def stop_header() -> Tensor:
    """The header `[HEADER]` int64 that ends a rank; nothing follows it."""
    return _header(STOP)


def report_header() -> Tensor:
    """The header `[HEADER]` int64 that asks each rank for its ledger; nothing follows it."""
    return _header(REPORT)


def occupy_header(cache: int, num_slots: int) -> Tensor:
    """The header `[HEADER]` int64 that has each rank take the memory of a cache; nothing follows it."""
    return _header(OCCUPY, 0, cache, num_slots)


def decode_occupy(header: Tensor) -> tuple[int, int]:
    """Number and slots of that cache."""
    return int(header[2]), int(header[3])


def _header(*numbers: int) -> Tensor:
    return torch.tensor([*numbers, *[0] * (HEADER - len(numbers))], dtype=torch.int64, device="cpu")


def kind_of(header: Tensor) -> int:
    """`STEP`, `STOP`, `REPORT`, `PREFIX` or `OCCUPY`."""
    return int(header[_KIND])


def encode_prefix(prefix: Prefix) -> tuple[Tensor, Tensor]:
    """The header `[HEADER]` int64 and what follows it, uint8; the numbers as float32."""
    parts = (
        prefix.slots.long().contiguous().view(torch.uint8),
        prefix.given.cpu().float().contiguous().view(-1).view(torch.uint8),
    )
    body = torch.cat(parts)
    return _header(PREFIX, len(body), prefix.cache, prefix.num_slots, *prefix.given.shape), body


def decode_prefix(header: Tensor, body: Tensor) -> Prefix:
    """The prefix of a header and its body."""
    _, _, cache, num_slots, *shape = header[: 2 + 2 + 5].tolist()
    slots = body[: 8 * shape[3]].view(torch.int64)
    return Prefix(cache, num_slots, slots, body[8 * shape[3] :].view(torch.float32).view(shape))


def encode(task: Task) -> tuple[Tensor, Tensor]:
    """The header `[HEADER]` int64 and what follows it, uint8."""
    batch = task.batch
    width = int(batch.lengths.max())
    soft = 0 if batch.soft_rows is None else len(batch.soft_rows)
    parts = [
        torch.tensor(task.freed, dtype=torch.int64, device="cpu"),
        batch.token_ids,
        batch.positions,
        batch.slot_mapping,
        batch.logit_rows,
    ]
    if batch.soft_rows is not None and batch.soft_embeddings is not None:
        parts += [batch.soft_rows, batch.soft_embeddings.float()]
    parts += [batch.starts, batch.lengths, batch.slot_table[:, :width]]
    body = torch.from_numpy(np.concatenate([np.ascontiguousarray(part.numpy()).reshape(-1).view(np.uint8) for part in parts]))
    counts = (batch.num_tokens, batch.num_sequences, width, len(batch.logit_rows), batch.num_decodes, soft, len(task.freed))
    return _header(STEP, len(body), *counts, task.cache, task.slots, task.number), body


def body_bytes(header: Tensor) -> int | None:
    """How many bytes follow a header; None when it ends the rank."""
    return None if int(header[_KIND]) == STOP else int(header[_BYTES])


def decode(header: Tensor, body: Tensor, hidden_size: int) -> Task:
    """The task of a header and its body."""
    numbers = header.tolist()
    tokens, sequences, soft = numbers[_TOKENS], numbers[_SEQUENCES], numbers[_SOFT]
    fields: list[tuple[torch.dtype, int]] = [(torch.int64, numbers[_FREED]), *[(torch.int64, tokens)] * 3]
    fields.append((torch.int64, numbers[_ROWS]))
    if soft:
        fields += [(torch.int64, soft), (torch.float32, soft * hidden_size)]
    fields += [(torch.int32, sequences + 1), (torch.int32, sequences), (torch.int32, sequences * numbers[_WIDTH])]
    ends = itertools.accumulate(dtype.itemsize * count for dtype, count in fields)
    begins = [0, *ends]
    views = [body[a:b].view(dtype) for (a, b), (dtype, _) in zip(itertools.pairwise(begins), fields, strict=True)]
    freed, token_ids, positions, slot_mapping, logit_rows, *given, starts, lengths, table = views
    batch = Batch(
        token_ids=token_ids,
        positions=positions,
        slot_mapping=slot_mapping,
        starts=starts,
        slot_table=table.view(sequences, numbers[_WIDTH]),
        lengths=lengths,
        num_decodes=numbers[_DECODES],
        logit_rows=logit_rows,
        soft_rows=given[0] if soft else None,
        soft_embeddings=given[1].view(soft, hidden_size) if soft else None,
    )
    return Task(numbers[_NUMBER], batch, numbers[_CACHE], numbers[_SLOTS], tuple(freed.tolist()))
