"""From a plan to the tensors of a forward pass; those of decoding sequences stay on the device and move on in place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labkit.engine.schedule.cached_sequence import CachedSequence
from labkit.engine.schedule.scheduler import Chunk, Plan
from labkit.model.batch import Batch

_TOKEN, _POSITION, _SLOT, _CELL, _LENGTH = range(5)


class BatchBuilder:
    """Keeps one line of `slot_table` `[max_batch_size, context_length]` for each decoding sequence.

    A step of the same sequences writes one cell a line and five numbers a sequence; lines are written whole only when a
    sequence begins to decode, and moved when another leaves. A `Batch` is valid until the next one is built.
    """

    def __init__(self, max_batch_size: int, context_length: int, device: torch.device) -> None:
        self.device = device
        self._decodes: list[CachedSequence] = []
        self._lines: list[CachedSequence] = []
        self._table = torch.zeros(max_batch_size, context_length, dtype=torch.int32, device=device)
        on_gpu = device.type == "cuda"
        self._host = torch.zeros(5, max_batch_size, dtype=torch.int64, device="cpu", pin_memory=on_gpu)
        self._numbers = self._host.numpy()
        self._starts = np.arange(max_batch_size) * context_length  # of the lines in the table
        self._sent = torch.zeros_like(self._host, device=device) if on_gpu else self._host
        self._lengths = torch.zeros(max_batch_size, dtype=torch.int32, device=device)
        self._count = torch.arange(max_batch_size + 1, dtype=torch.int32, device=device)
        self._count_64 = self._count.long()

    def line_up(self, decodes: list[CachedSequence]) -> list[CachedSequence]:
        """Give each decoding sequence a line and take it from all others; the sequences in the order of their lines."""
        if decodes == self._decodes:
            return self._lines
        staying = set(decodes)
        for line in reversed(range(len(self._lines))):
            if self._lines[line] not in staying:
                self._clear(line)
        seated = set(self._lines)
        for entry in decodes:
            if entry not in seated:
                self._table[len(self._lines), : entry.num_slots] = torch.from_numpy(entry.held).to(self.device)
                self._lines.append(entry)
        self._decodes = decodes
        return self._lines

    def build(self, plan: Plan) -> Batch:
        """The batch of a plan whose decodes are in the order that `line_up` gave."""
        decodes = self._decode(plan.decodes) if plan.decodes else None
        if not plan.chunks:
            assert decodes is not None
            return decodes
        chunks = self._prefill(plan.chunks, len(plan.decodes))
        return chunks if decodes is None else self._joined(decodes, chunks)

    def _clear(self, line: int) -> None:
        """Take the last sequence's line to the place of one that has gone."""
        last = self._lines.pop()
        if line < len(self._lines):
            self._lines[line] = last
            self._table[line, : last.num_slots] = self._table[len(self._lines), : last.num_slots]

    def _decode(self, entries: list[CachedSequence]) -> Batch:
        """The last token of each sequence; the slot that it goes to is added to the sequence's line."""
        count = len(entries)
        positions = [entry.num_tokens - 1 for entry in entries]
        columns = [entry.column(position) for entry, position in zip(entries, positions, strict=True)]
        numbers = self._numbers[:, :count]
        numbers[_TOKEN] = [entry.last_token for entry in entries]
        numbers[_POSITION] = positions
        numbers[_SLOT] = [entry.slots[column] for entry, column in zip(entries, columns, strict=True)]
        numbers[_CELL] = self._starts[:count] + columns
        numbers[_LENGTH] = [entry.length(position + 1) for entry, position in zip(entries, positions, strict=True)]
        if self._sent is not self._host:
            self._sent.copy_(self._host, non_blocking=True)
        sent = self._sent[:, :count]
        self._table.view(-1)[sent[_CELL]] = sent[_SLOT].int()
        self._lengths[:count] = sent[_LENGTH]
        return Batch(
            token_ids=sent[_TOKEN],
            positions=sent[_POSITION],
            slot_mapping=sent[_SLOT],
            starts=self._count[: count + 1],
            slot_table=self._table[:count],
            lengths=self._lengths[:count],
            num_decodes=count,
            logit_rows=self._count_64[:count],
        )

    def _prefill(self, chunks: list[Chunk], first: int) -> Batch:
        """Chunks alone, as the tokens behind `first` others."""
        ends = np.cumsum([chunk.count for chunk in chunks])
        lengths = [chunk.entry.length(chunk.begin + chunk.count) for chunk in chunks]
        table = np.zeros((len(chunks), max(lengths)), np.int32)
        for line, (chunk, length) in enumerate(zip(chunks, lengths, strict=True)):
            table[line, :length] = chunk.entry.slots[:length]
        begins = first + ends - [chunk.count for chunk in chunks]
        wanted = [begin + row for begin, chunk in zip(begins, chunks, strict=True) for row in (*chunk.scored, *chunk.sampled)]
        soft_rows, soft_embeddings = self._soft(chunks, first)
        return Batch(
            token_ids=self._send(np.concatenate([c.tokens for c in chunks])),
            positions=self._send(np.concatenate([np.arange(c.begin, c.begin + c.count) for c in chunks])),
            slot_mapping=self._send(np.concatenate([c.slots for c in chunks]).astype(np.int64)),
            starts=self._send(np.concatenate(([first], first + ends)).astype(np.int32)),
            slot_table=self._send(table),
            lengths=self._send(np.array(lengths, np.int32)),
            num_decodes=0,
            logit_rows=self._send(np.array(wanted, np.int64)),
            soft_rows=soft_rows,
            soft_embeddings=soft_embeddings,
        )

    def _soft(self, chunks: list[Chunk], first: int) -> tuple[Tensor | None, Tensor | None]:
        """Tokens of the batch whose embedding a soft prompt gives, and these embeddings."""
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
        return torch.cat(rows).to(self.device), torch.cat([rows.to(self.device) for rows in embeddings])

    def _joined(self, decodes: Batch, chunks: Batch) -> Batch:
        """Decodes in front of chunks; the table as wide as the longest of them needs."""
        count = decodes.num_sequences
        width = max(chunks.slot_table.shape[1], int(self._numbers[_LENGTH, :count].max()))
        table = chunks.slot_table.new_zeros(count + chunks.num_sequences, width)
        table[:count] = decodes.slot_table[:, :width]
        table[count:, : chunks.slot_table.shape[1]] = chunks.slot_table
        return Batch(
            token_ids=torch.cat((decodes.token_ids, chunks.token_ids)),
            positions=torch.cat((decodes.positions, chunks.positions)),
            slot_mapping=torch.cat((decodes.slot_mapping, chunks.slot_mapping)),
            starts=torch.cat((decodes.starts[:-1], chunks.starts)),
            slot_table=table,
            lengths=torch.cat((decodes.lengths, chunks.lengths)),
            num_decodes=count,
            logit_rows=torch.cat((decodes.logit_rows, chunks.logit_rows)),
            soft_rows=chunks.soft_rows,
            soft_embeddings=chunks.soft_embeddings,
        )

    def _send(self, array: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        return torch.from_numpy(array).to(self.device)
