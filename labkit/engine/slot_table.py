"""The slot table of decoding sequences: it stays on the device, and each step adds one token per sequence in place.

The table does not know which sequence a line belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from labkit.engine.schedule.slot_allocator import Slots
from labkit.model.batch import Batch, RowNumbers

_TOKEN, _POSITION, _SLOT, _CELL, _LENGTH = range(5)


class SlotTable:
    """Up to `rows` lines of `width` slot numbers. Line i holds the slots that the i-th sequence attends to, in order.

    A decode step writes one cell per line and sends five numbers per sequence to the device.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.device = device
        self._table = torch.zeros(rows, width, dtype=torch.int32, device=device)
        on_gpu = device.type == "cuda"
        self._host = torch.zeros(5, rows, dtype=torch.int64, device="cpu", pin_memory=on_gpu)
        self._values = self._host.numpy()
        self._starts = np.arange(rows) * width  # where each line begins in the flat table
        self._sent = torch.zeros_like(self._host, device=device) if on_gpu else self._host
        self._lengths = torch.zeros(rows, dtype=torch.int32, device=device)
        self._numbers = RowNumbers(rows, device)

    def write(self, line: int, slots: Slots) -> None:
        """Write these slots to the beginning of a line."""
        self._table[line, : len(slots)] = torch.from_numpy(slots).to(self.device)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` slots of one line to another."""
        self._table[target, :count] = self._table[source, :count]

    def select(self, parents: Sequence[int]) -> None:
        """Make line i a copy of line `parents[i]`, for all i at once."""
        if list(parents) != list(range(len(parents))):
            index = torch.tensor(parents, dtype=torch.int64, device="cpu").to(self.device)
            self._table[: len(parents)] = self._table[index]

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        slots: Sequence[int],
        columns: Sequence[int],
        lengths: Sequence[int],
    ) -> Batch:
        """Build the batch with one new token for each of the first lines. The batch is valid until the next call of any method.

        The key and value of the i-th new token go to slot `slots[i]`, and this number is written to column `columns[i]` of
        line i. `lengths[i]`: how many slots the i-th sequence then attends to.
        """
        count = len(tokens)
        values = self._values[:, :count]
        values[_TOKEN] = tokens
        values[_POSITION] = positions
        values[_SLOT] = slots
        values[_CELL] = self._starts[:count] + columns
        values[_LENGTH] = lengths
        if self._sent is not self._host:
            self._sent.copy_(self._host, non_blocking=True)
        sent = self._sent[:, :count]
        self._table.view(-1)[sent[_CELL]] = sent[_SLOT].int()
        self._lengths[:count] = sent[_LENGTH]
        return Batch.of_decodes(
            token_ids=sent[_TOKEN],
            positions=sent[_POSITION],
            slot_mapping=sent[_SLOT],
            slot_table=self._table[:count],
            lengths=self._lengths[:count],
            numbers=self._numbers,
        )
