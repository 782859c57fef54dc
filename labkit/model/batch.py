"""What one forward pass works on: the new tokens of several sequences, flat, and where each sequence's cache lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The new tokens of all sequences, one sequence behind another, those with a single new token in front.

    token_ids, positions, slot_mapping: `[tokens]` int64: the token, its rotary position, the cache slot it is written to.
    starts: `[sequences + 1]` int32: the first token of each sequence, and the number of tokens at the end.
    slot_table: `[sequences, any]` int32: the slots that a sequence sees, in order, its new tokens last.
    lengths: `[sequences]` int32: how many entries of its row of `slot_table` count.
    num_decodes: sequences in front that have one new token each; the others are prefilled, whole or in part.
    logit_rows: `[rows]` int64: the tokens whose logits are wanted.
    soft_rows, soft_embeddings: `[soft]` int64 and `[soft, hidden_size]`: tokens whose embedding is given in the request
    (soft prompts) in place of the table's row.
    """

    token_ids: Tensor
    positions: Tensor
    slot_mapping: Tensor
    starts: Tensor
    slot_table: Tensor
    lengths: Tensor
    num_decodes: int
    logit_rows: Tensor
    soft_rows: Tensor | None = None
    soft_embeddings: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`; itself where they are there already."""
        if self.token_ids.device == device:
            return self
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**values)

    @property
    def num_tokens(self) -> int:
        """New tokens in all."""
        return self.token_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        """Sequences in all."""
        return self.lengths.shape[0]

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one new token."""
        return self.num_decodes == self.num_sequences


class FixedBatches:
    """Batches for a fixed set of sequences that go on together, each in a stretch of the cache of its own.

    For scoring, benchmarks and tests; the engine's scheduler makes its own. The cache needs `sequences * capacity` slots
    from `first_slot` on.
    """

    def __init__(self, sequences: int, capacity: int, device: torch.device, *, first_slot: int = 0) -> None:
        self.device = device
        slots = torch.arange(first_slot, first_slot + sequences * capacity, dtype=torch.int32, device=device)
        self.slot_table = slots.view(sequences, capacity)
        self.lengths = torch.zeros(sequences, dtype=torch.int32, device=device)
        self._steps = torch.arange(sequences + 1, dtype=torch.int32, device=device)
        self._rows = torch.arange(sequences, dtype=torch.int64, device=device)

    def prefill(self, prompts: Sequence[Tensor], *, all_logits: bool = False) -> Batch:
        """New tokens of every sequence (1-d int64 tensors, any lengths of at least 1), behind what it holds.

        Logits behind the last token of each, or with `all_logits` behind every token.
        """
        counts = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64, device="cpu")
        ends = counts.cumsum(0)
        before = self.lengths.tolist()
        spans = [_numbers(n, n + c) for n, c in zip(before, counts.tolist(), strict=True)]
        positions = torch.cat(spans).to(self.device)
        rows = _numbers(0, len(prompts)).repeat_interleave(counts).to(self.device)
        self.lengths += counts.to(self.device, torch.int32)
        return Batch(
            token_ids=torch.cat(tuple(prompts)).to(self.device),
            positions=positions,
            slot_mapping=self.slot_table[rows, positions].long(),
            starts=torch.cat((ends.new_zeros(1), ends)).to(self.device, torch.int32),
            slot_table=self.slot_table,
            lengths=self.lengths,
            num_decodes=0,
            logit_rows=(_numbers(0, int(ends[-1])) if all_logits else ends - 1).to(self.device),
        )

    def decode(self, token_ids: Tensor) -> Batch:
        """One new token of every sequence: `[sequences]` int64."""
        positions = self.lengths.long()
        self.lengths += 1
        return Batch(
            token_ids=token_ids.to(self.device),
            positions=positions,
            slot_mapping=self.slot_table[self._rows, positions].long(),
            starts=self._steps,
            slot_table=self.slot_table,
            lengths=self.lengths,
            num_decodes=len(self._rows),
            logit_rows=self._rows,
        )


def _numbers(begin: int, end: int) -> Tensor:
    return torch.arange(begin, end, dtype=torch.int64, device="cpu")
