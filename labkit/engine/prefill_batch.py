"""Builds a batch from chunks of prompts, and writes the keys and values that prefix prompts contain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from labkit.engine.schedule.plan import Chunk
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache


def prefill_batch(chunks: Sequence[Chunk], device: torch.device, first: int = 0) -> Batch:
    """Build the batch of all positions of the chunks.

    The tokens of the batch are numbered from `first`, because `first` other tokens come before them in the step. The batch asks
    for logits only at the positions that are scored or sampled, chunk by chunk.
    """

    def send(array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(device)

    ends = np.cumsum([chunk.count for chunk in chunks])
    lengths = [chunk.entry.length(chunk.begin + chunk.count) for chunk in chunks]
    table = np.zeros((len(chunks), max(lengths)), np.int32)
    for line, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
        table[line, :length] = chunk.entry.slots[:length]
    begins = first + ends - [chunk.count for chunk in chunks]
    wanted = [begin + row for begin, chunk in zip(begins, chunks, strict=True) for row in (*chunk.scored, *chunk.sampled)]
    soft_rows, soft_embeddings = _soft(chunks, first, device)
    return Batch.of_prefills(
        token_ids=send(np.concatenate([c.tokens for c in chunks])),
        positions=send(np.concatenate([np.arange(c.begin, c.begin + c.count) for c in chunks])),
        slot_mapping=send(np.concatenate([c.slots for c in chunks]).astype(np.int64)),
        starts=send(np.concatenate(([first], first + ends)).astype(np.int32)),
        slot_table=send(table),
        lengths=send(np.array(lengths, np.int32)),
        logit_rows=send(np.array(wanted, np.int64)),
        soft_rows=soft_rows,
        soft_embeddings=soft_embeddings,
    )


def write_prefix_prompts(chunks: Sequence[Chunk], forward: Forward, cache: KVCache) -> None:
    """Write the keys and values of each prefix prompt to the first slots of its request, before the request's first chunk."""
    for chunk in chunks:
        entry, given = chunk.entry, chunk.entry.sequence.params.prefix_prompt
        if given is not None and chunk.begin == entry.prefix_len:
            slots = torch.from_numpy(entry.slots[: entry.prefix_len].astype(np.int64))
            forward.write_prefix_prompt(cache, slots, given)


def _soft(chunks: Sequence[Chunk], first: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """The indices of the tokens that a soft prompt replaces, and the soft prompt's embeddings for them."""
    rows, embeddings = [], []
    for chunk in chunks:
        entry, given = chunk.entry, chunk.entry.sequence.params.soft_prompt
        if given is not None and chunk.begin < entry.lead:
            end = min(chunk.begin + chunk.count, entry.lead)
            rows.append(torch.arange(first, first + end - chunk.begin, dtype=torch.int64, device="cpu"))
            embeddings.append(given[chunk.begin - entry.prefix_len : end - entry.prefix_len])
        first += chunk.count
    if not rows:
        return None, None
    return torch.cat(rows).to(device), torch.cat([part.to(device) for part in embeddings])
