"""The plan of one step: a new token for each decoding sequence, and chunks of prompts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from labkit.engine.schedule.cached_sequence import CachedSequence
from labkit.engine.schedule.prefix_cache import Tokens
from labkit.engine.schedule.slot_allocator import Slots


@dataclass(frozen=True)
class Chunk:
    """`count` positions of a sequence, from `begin` on. If `is_last` is true, a new token is chosen after the last of them.

    The positions are part of a prompt, tokens that are computed again, or the last token of a sequence and the guesses after
    it.
    """

    entry: CachedSequence
    begin: int
    count: int
    is_last: bool

    @classmethod
    def next_of(cls, entry: CachedSequence, budget: int) -> Chunk:
        """Make the chunk of the positions that a sequence computes next, at most `budget` of them."""
        begin, count = entry.begin, entry.chunk(budget)
        return cls(entry, begin, count, begin + count == entry.num_tokens)

    @property
    def tokens(self) -> Tokens:
        """The tokens at the chunk's positions."""
        entry = self.entry
        return np.array([entry.last_token, *entry.guesses]) if entry.decoding else entry.tokens[self.begin :][: self.count]

    @property
    def scored(self) -> range:
        """The positions, counted from `begin`, whose logits score the next token of the prompt."""
        if not self.entry.scores_prompt:
            return range(0)
        return range(max(self.entry.lead - self.begin, 0), self.count - self.is_last)

    @property
    def sampled(self) -> list[int]:
        """The positions, counted from `begin`, whose logits choose a new token.

        At the end of a prompt, this is the last position, once for each sample. While the sequence decodes, these are all
        positions of the chunk.
        """
        if self.entry.decoding:
            return list(range(self.count))
        return [self.count - 1] * (1 + len(self.entry.forks)) if self.is_last else []

    @property
    def slots(self) -> Slots:
        """The slots of the chunk's positions."""
        column = self.entry.column(self.begin)
        return self.entry.slots[column : column + self.count]


@dataclass(frozen=True)
class Plan:
    """The plan of one step, whose batch holds one token of each sequence in `decodes`, followed by the tokens of `chunks`."""

    decodes: list[CachedSequence]
    chunks: list[Chunk]

    @property
    def num_tokens(self) -> int:
        """The number of tokens that the step computes."""
        return len(self.decodes) + sum(chunk.count for chunk in self.chunks)

    @property
    def entries(self) -> list[CachedSequence]:
        """The sequences that take part in the step."""
        return [*self.decodes, *(chunk.entry for chunk in self.chunks)]

    def parts(self) -> list[Plan]:
        """Split the plan into several plans, one for each sequence."""
        return [Plan([entry], []) for entry in self.decodes] + [Plan([], [chunk]) for chunk in self.chunks]

    def without(self, gone: Collection[CachedSequence], *, scored: bool = True) -> tuple[Plan, list[int]]:
        """Remove the sequences in `gone`.

        Returns the plan of the remaining sequences, and the rows of this plan's logits that belong to these sequences. If
        `scored` is false, the logits do not contain the rows that only score a prompt.
        """
        rows = 0
        kept: list[int] = []
        counts = [len(chunk.scored) * scored + len(chunk.sampled) for chunk in self.chunks]
        entries = self.entries
        for entry, count in zip(entries, [1] * len(self.decodes) + counts, strict=True):
            if entry not in gone:
                kept += range(rows, rows + count)
            rows += count
        decodes = [entry for entry in self.decodes if entry not in gone]
        return Plan(decodes, [chunk for chunk in self.chunks if chunk.entry not in gone]), kept
