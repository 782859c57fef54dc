"""Makes batches of sequences that all start and end together. Scoring, benchmarks and tests use such batches.

The engine builds its own batches, because its sequences start and end at different times.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.model.batch import Batch, RowNumbers


class FixedBatches:
    """Makes batches for `sequences` sequences. Each sequence has `capacity` neighbouring slots of the cache.

    The cache needs `sequences * capacity` slots from `first_slot` on.
    """

    def __init__(self, sequences: int, capacity: int, device: torch.device, *, first_slot: int = 0) -> None:
        self.device = device
        slots = torch.arange(first_slot, first_slot + sequences * capacity, dtype=torch.int32, device=device)
        self.slot_table = slots.view(sequences, capacity)
        self.lengths = torch.zeros(sequences, dtype=torch.int32, device=device)
        self._numbers = RowNumbers(sequences, device)

    def prefill(self, prompts: Sequence[Tensor], *, all_logits: bool = False) -> Batch:
        """Make a batch that adds new tokens to every sequence, after its earlier tokens.

        prompts: one 1-d int64 tensor for each sequence, with at least one token. The batch asks for logits after the last token
        of each sequence or, if `all_logits` is set, after every token.
        """
        counts = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int64, device="cpu")
        ends = counts.cumsum(0)
        before = self.lengths.tolist()
        spans = [_numbers(n, n + c) for n, c in zip(before, counts.tolist(), strict=True)]
        positions = torch.cat(spans).to(self.device)
        rows = _numbers(0, len(prompts)).repeat_interleave(counts).to(self.device)
        self.lengths += counts.to(self.device, torch.int32)
        return Batch.of_prefills(
            token_ids=torch.cat(tuple(prompts)).to(self.device),
            positions=positions,
            slot_mapping=self.slot_table[rows, positions].long(),
            starts=torch.cat((ends.new_zeros(1), ends)).to(self.device, torch.int32),
            slot_table=self.slot_table,
            lengths=self.lengths,
            logit_rows=(_numbers(0, int(ends[-1])) if all_logits else ends - 1).to(self.device),
        )

    def decode(self, token_ids: Tensor) -> Batch:
        """Make a batch with one new token of every sequence. `token_ids`: `[sequences]` int64."""
        positions = self.lengths.long()
        self.lengths += 1
        return Batch.of_decodes(
            token_ids=token_ids.to(self.device),
            positions=positions,
            slot_mapping=self.slot_table[self._numbers.rows, positions].long(),
            slot_table=self.slot_table,
            lengths=self.lengths,
            numbers=self._numbers,
        )


def _numbers(begin: int, end: int) -> Tensor:
    return torch.arange(begin, end, dtype=torch.int64, device="cpu")
