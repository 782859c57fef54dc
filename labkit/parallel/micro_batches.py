"""Cuts a batch into micro-batches. While a stage works on a micro-batch, the next stage works on the previous micro-batch."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from labkit.model.batch import Batch

FEWEST_TOKENS = 64
"""The fewest tokens in a micro-batch.

With fewer tokens, reading the weights more often costs more time than the smaller bubble saves.
"""

MICRO_BATCHES_PER_STAGE = 4
"""The largest number of micro-batches, divided by the number of stages.

More micro-batches make the bubble smaller: its share of the time is (stages - 1) / (micro_batches + stages - 1).
"""


def num_micro_batches(tokens: int, stages: int) -> int:
    """The number of micro-batches into which a batch of `tokens` tokens is cut."""
    return max(1, min(MICRO_BATCHES_PER_STAGE * stages, tokens // FEWEST_TOKENS)) if stages > 1 else 1


def split_batch(batch: Batch, pieces: int) -> list[Batch]:
    """Cut a batch into `pieces` batches of consecutive tokens, about equally long.

    If the pieces are run one after another over the same cache, they write the same keys and values as the whole batch. The
    concatenated logits of the pieces are the logits of the whole batch. A sequence that is cut continues in the next piece,
    which reads the keys and values that the earlier pieces wrote.
    """
    if pieces == 1:
        return [batch]
    tokens = batch.num_tokens
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    edges = [tokens * piece // pieces for piece in range(pieces + 1)]
    return [_piece(batch, begin, end, starts, lengths) for begin, end in itertools.pairwise(edges) if begin < end]


def _piece(batch: Batch, begin: int, end: int, starts: list[int], lengths: list[int]) -> Batch:
    held = [s for s, (a, b) in enumerate(itertools.pairwise(starts)) if a < end and b > begin]
    ends = [min(starts[s + 1], end) for s in held]
    rows = batch.logit_rows[(batch.logit_rows >= begin) & (batch.logit_rows < end)] - begin
    soft_rows, soft_embeddings = batch.soft_rows, batch.soft_embeddings
    if soft_rows is not None and soft_embeddings is not None:
        inside = (soft_rows >= begin) & (soft_rows < end)
        soft_rows, soft_embeddings = (
            (soft_rows[inside] - begin, soft_embeddings[inside]) if bool(inside.any()) else (None, None)
        )
    device = batch.lengths.device
    return replace(
        batch,
        token_ids=batch.token_ids[begin:end],
        positions=batch.positions[begin:end],
        slot_mapping=batch.slot_mapping[begin:end],
        starts=torch.tensor([max(starts[s], begin) - begin for s in held] + [end - begin], dtype=torch.int32, device=device),
        slot_table=batch.slot_table[held[0] : held[-1] + 1],
        lengths=torch.tensor(
            [lengths[s] - (starts[s + 1] - stop) for s, stop in zip(held, ends, strict=True)], dtype=torch.int32, device=device
        ),
        num_decodes=sum(s < batch.num_decodes for s in held),
        logit_rows=rows,
        soft_rows=soft_rows,
        soft_embeddings=soft_embeddings,
    )
