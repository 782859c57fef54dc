"""Turns the plan of a step into the `Batch` for a forward pass.

The tensors of decoding sequences stay on the device between steps.
"""

from __future__ import annotations

import torch

from labkit.engine.prefill_batch import prefill_batch
from labkit.engine.schedule.cached_sequence import CachedSequence
from labkit.engine.schedule.plan import Plan
from labkit.engine.slot_table import SlotTable
from labkit.model.batch import Batch


class BatchBuilder:
    """Keeps a slot table of `context_length` columns, with one line for each of up to `max_batch_size` decoding sequences.

    A whole line is written only when its sequence begins to decode, and a line is moved only when another sequence leaves.
    Each `Batch` is valid only until the next one is built.
    """

    def __init__(self, max_batch_size: int, context_length: int, device: torch.device) -> None:
        self.device = device
        self._decodes: list[CachedSequence] = []
        self._lines: list[CachedSequence] = []
        self._filled: list[int] = []  # for each line, the number of tokens whose slots it holds
        self._table = SlotTable(max_batch_size, context_length, device)

    def line_up(self, decodes: list[CachedSequence]) -> list[CachedSequence]:
        """Give each of these decoding sequences a line of the slot table, and free all other lines.

        Returns the sequences in line order.
        """
        if decodes == self._decodes:
            self._fill_lines()
            return self._lines
        staying = set(decodes)
        for line in reversed(range(len(self._lines))):
            if self._lines[line] not in staying:
                self._clear(line)
        seated = set(self._lines)
        for entry in decodes:
            if entry not in seated:
                self._lines.append(entry)
                self._filled.append(-1)
        self._fill_lines()
        self._decodes = decodes
        return self._lines

    def build(self, plan: Plan) -> Batch:
        """Build the batch for a plan. The plan's decodes must be in the order that `line_up` returned."""
        if not plan.decodes:
            return prefill_batch(plan.chunks, self.device)
        entries = plan.decodes
        positions = [entry.num_tokens - 1 for entry in entries]
        columns = [entry.column(position) for entry, position in zip(entries, positions, strict=True)]
        lengths = [entry.length(position + 1) for entry, position in zip(entries, positions, strict=True)]
        slots = [entry.slots[column] for entry, column in zip(entries, columns, strict=True)]
        self._filled = [position + 1 for position in positions]
        decodes = self._table.decode([entry.last_token for entry in entries], positions, slots, columns, lengths)
        if not plan.chunks:
            return decodes
        return Batch.join(decodes, prefill_batch(plan.chunks, self.device, len(entries)), max(lengths))

    def _clear(self, line: int) -> None:
        """Free a line by moving the last line into its place."""
        last, filled = self._lines.pop(), self._filled.pop()
        if line < len(self._lines):
            self._lines[line], self._filled[line] = last, filled
            self._table.copy(len(self._lines), line, last.num_slots)

    def _fill_lines(self) -> None:
        """Write the lines that lack slots: new ones, and those whose sequences have decoded with another builder meanwhile."""
        for line, (entry, filled) in enumerate(zip(self._lines, self._filled, strict=True)):
            if filled != entry.num_tokens - 1:
                self._table.write(line, entry.held)
                self._filled[line] = entry.num_tokens - 1
