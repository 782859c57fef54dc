"""Gives running sequences their slots: first shared prefixes, then free slots, then slots of evicted prefixes."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np

from labkit.engine.schedule.cached_sequence import CachedSequence, slots_needed
from labkit.engine.schedule.prefix_cache import PrefixCache
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_allocator import SlotAllocator, Slots
from labkit.errors import InvalidRequest


class SlotPool:
    """A pool of `num_slots` cache slots. With `prefix_reuse`, keys and values are kept after their sequence has ended.

    Raises `InvalidRequest` for fewer than one slot.
    """

    def __init__(self, num_slots: int, *, prefix_reuse: bool = True) -> None:
        self.allocator = SlotAllocator(num_slots)
        self.prefixes = PrefixCache(self.allocator)
        self.prefix_reuse = prefix_reuse

    @property
    def num_slots(self) -> int:
        """The total number of slots."""
        return self.allocator.num_slots

    @property
    def num_available(self) -> int:
        """The number of slots that can be given out now: the free slots and the slots of idle prefixes."""
        return self.allocator.num_free + self.allocator.num_idle

    def check(self, sequence: Sequence) -> None:
        """Raise `InvalidRequest` if a sequence would not fit the pool even if it ran alone."""
        if (needed := slots_needed(sequence)) > self.num_slots:
            raise InvalidRequest(
                f"a prompt of {len(sequence.prompt)} tokens with {sequence.max_new_tokens} new tokens needs {needed} slots "
                f"of the KV cache, which has {self.num_slots}; ask for fewer tokens or give the engine a larger cache"
            )

    def matched(self, entry: CachedSequence) -> Slots:
        """Find the slots of the longest cached prefix of a sequence.

        The prefix never includes the sequence's last token, because the logits after this token must be computed.
        """
        if not self._shares(entry) or entry.scores_prompt:
            return entry.slots[:0]
        return self.prefixes.match(entry.tokens[:-1])

    def reserve(self, count: int, spare: int) -> Slots | None:
        """Take `count` slots for a caller that manages them itself; None if fewer than `spare` slots would be left."""
        return self._take(count) if count + spare <= self.num_available else None

    def seat(self, entry: CachedSequence, shared: Slots, spare: int) -> bool:
        """Give a sequence slots for all its tokens. The slots in `shared` come first.

        Returns False, and gives the sequence no slots, if fewer than `spare` slots would be left.
        """
        self.allocator.share(shared)
        needed = entry.length(entry.num_tokens) - len(shared)
        if needed + spare > self.num_available:
            self.allocator.release(shared)
            return False
        entry.extend(shared)
        entry.extend(self._take(needed))
        entry.computed = max(entry.computed, len(shared))
        entry.epoch = self.prefixes.epoch
        return True

    def lacks_slot(self, entry: CachedSequence) -> bool:
        """Whether a decoding sequence needs another slot for its next token."""
        position = entry.num_tokens - 1
        if entry.window is None or position < entry.window:
            return entry.num_slots <= position
        # The bounded memory is full, so the oldest slot is overwritten, unless another sample uses this slot, too.
        return bool(self.allocator.references[entry.slots[entry.column(position)]] > 1)

    def give_next(self, entries: SequenceOf[CachedSequence]) -> None:
        """Give each of these sequences the slot that it lacks for its next token; `num_available` must be large enough."""
        for entry, slot in zip(entries, self._take(len(entries)).tolist(), strict=True):
            column = entry.column(entry.num_tokens - 1)
            if column < entry.num_slots:
                self.allocator.release(entry.slots[column : column + 1])
            entry.slots[column] = slot
            if column >= entry.num_slots:
                entry.num_slots = column + 1

    def give_guesses(self, entry: CachedSequence, count: int) -> None:
        """Give a decoding sequence slots for `count` guesses. Slots of wrong guesses are later used for the right tokens."""
        missing = entry.num_tokens + count - entry.num_slots
        entry.extend(self._take(max(missing, 0)))

    def fork(self, entry: CachedSequence, sequence: Sequence, row: int) -> CachedSequence:
        """Make another sequence with the computed tokens of `entry`. The two sequences share the slots; nothing is copied."""
        self.allocator.share(entry.held)
        return entry.fork(sequence, row)

    def share_prefix(self, entry: CachedSequence) -> None:
        """Let other sequences use the keys and values that a running sequence has computed.

        If another sequence computed the same tokens first, the running sequence uses that sequence's slots from now on.
        """
        if not self._shares(entry) or entry.epoch != self.prefixes.epoch:
            return
        kept = self._keep(entry)
        other = np.flatnonzero(kept != entry.slots[: len(kept)])
        self.allocator.share(kept[other])
        self.allocator.release(entry.slots[other])
        entry.slots[other] = kept[other]

    def release(self, entry: CachedSequence) -> None:
        """Release a sequence's slots.

        The keys and values stay in the cache as a prefix for other sequences, until their slots are needed.
        """
        if self._shares(entry) and entry.epoch == self.prefixes.epoch:
            self._keep(entry)
        self.allocator.release(entry.held)
        entry.num_slots = 0

    def _shares(self, entry: CachedSequence) -> bool:
        return self.prefix_reuse and entry.is_shareable

    def _keep(self, entry: CachedSequence) -> Slots:
        tokens = [*entry.sequence.prompt, *entry.sequence.new_tokens]
        return self.prefixes.insert(tokens[: entry.computed], entry.slots)

    def _take(self, count: int) -> Slots:
        self.prefixes.evict(count - self.allocator.num_free)
        return self.allocator.take(count)
