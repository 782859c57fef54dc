"""A batch in pieces, so that a stage works on one while the next stage works on the one before."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from labkit.model.batch import Batch

FEWEST_TOKENS = 64
"""Of a piece: with fewer a product is no longer worth reading the weights again."""

PIECES_PER_STAGE = 4
"""The more pieces, the smaller the bubble, (stages - 1) / (pieces + stages - 1) of the time."""


def pieces_of(tokens: int, stages: int) -> int:
    """Into how many pieces a batch of so many tokens is cut."""
    return max(1, min(PIECES_PER_STAGE * stages, tokens // FEWEST_TOKENS)) if stages > 1 else 1


def split(batch: Batch, pieces: int) -> list[Batch]:
    """Consecutive stretches of the tokens as batches of their own, about equally long.

    Run one after the other over the same cache they write and give what the whole batch does, the logits behind one
    another. A sequence whose tokens are cut goes on in the next piece, which sees what the earlier ones wrote.
    """
    if pieces == 1:
        return [batch]
    tokens = batch.num_tokens
    starts, lengths = batch.starts.tolist(), batch.lengths.tolist()
    edges = [tokens * piece // pieces for piece in range(pieces + 1)]
    return [_stretch(batch, begin, end, starts, lengths) for begin, end in itertools.pairwise(edges) if begin < end]


def _stretch(batch: Batch, begin: int, end: int, starts: list[int], lengths: list[int]) -> Batch:
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
