"""Holds the input tensors of a captured decode step. They are padded to one of a few sizes.

After each step, the tensors are advanced by one token on the device. A CUDA graph reads the same addresses in every step, so
these tensors are allocated once. The rows after the real sequences are padding. A padding row is a sequence of one token; its
key and value are written to a slot that no sequence holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.model.batch import Batch, RowNumbers

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""The numbers of sequences for which graphs are captured."""


def bucket_of(sequences: int, buckets: Sequence[int] = BUCKETS) -> int | None:
    """Return the smallest bucket for at least this many sequences, or None if all buckets are smaller."""
    return min((bucket for bucket in buckets if bucket >= sequences), default=None)


class DecodeInputs:
    """The tensors of a decode `Batch` on `device`: up to `rows` sequences, and `width` columns in the slot table.

    Padding rows write to `padding_slot`. `load`, `advance` and `batch` only queue work on the device and do not wait for it.
    This class knows nothing about models.
    """

    def __init__(self, rows: int, width: int, padding_slot: int, device: torch.device) -> None:
        self.width = width
        self.padding_slot = padding_slot
        self._token_ids = torch.zeros(rows, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._token_ids)
        self._slot_mapping = torch.full_like(self._token_ids, padding_slot)
        self._slot_table = torch.full((rows, width), padding_slot, dtype=torch.int32, device=device)
        self._lengths = torch.ones(rows, dtype=torch.int32, device=device)
        self._real = torch.zeros(rows, dtype=torch.int32, device=device)  # 1 for a sequence, 0 for padding
        self._numbers = RowNumbers(rows, device)
        self._made = torch.zeros(rows, width, dtype=torch.int64, device=device)
        self._step = torch.zeros(1, dtype=torch.int64, device=device)
        self._loaded = 0

    def batch(self, rows: int) -> Batch:
        """Return the first `rows` rows as a batch. Its tensors are views of the tensors of this object."""
        return Batch.of_decodes(
            token_ids=self._token_ids[:rows],
            positions=self._positions[:rows],
            slot_mapping=self._slot_mapping[:rows],
            slot_table=self._slot_table[:rows],
            lengths=self._lengths[:rows],
            numbers=self._numbers,
        )

    def load(self, batch: Batch) -> None:
        """Copy a decode batch of at most `rows` sequences and `width` columns into the tensors.

        All other rows become padding.
        """
        count, columns = batch.slot_table.shape
        if count != self._loaded:
            self.clear()
            self._real[:count] = 1
            self._loaded = count
        self._token_ids[:count] = batch.token_ids
        self._positions[:count] = batch.positions
        self._slot_mapping[:count] = batch.slot_mapping
        self._slot_table[:count, :columns] = batch.slot_table
        self._lengths[:count] = batch.lengths
        self._step.zero_()

    def clear(self) -> None:
        """Turn every row into padding."""
        self._token_ids.zero_()
        self._positions.zero_()
        self._slot_mapping.fill_(self.padding_slot)
        self._slot_table[:, :1] = self.padding_slot
        self._lengths.fill_(1)
        self._real.zero_()
        self._step.zero_()
        self._loaded = 0

    def advance(self, tokens: Tensor) -> None:
        """Make `tokens` `[rows]` int64 the next step's input, store them for `made`, and advance each sequence by one token.

        The next token of a sequence gets the first unused slot in the sequence's row of the slot table.
        """
        rows = tokens.shape[0]
        self._made[:rows].index_copy_(1, self._step, tokens[:, None])
        self._step += 1
        self._token_ids[:rows] = tokens
        self._positions[:rows] += self._real[:rows]
        self._lengths[:rows] += self._real[:rows]
        # After the last token that fits, there is no further slot. The last entry is read instead, but it is not used.
        last = (self._lengths[:rows].long() - 1).clamp_(max=self.width - 1)
        self._slot_mapping[:rows] = self._slot_table[:rows].gather(1, last[:, None]).squeeze(1)

    def made(self, rows: int, steps: int) -> Tensor:
        """Return a copy of the tokens of the first `steps` calls of `advance` since `load`: `[rows, steps]` int64."""
        return self._made[:rows, :steps].clone()
