"""Tracks which cache slots are free, and counts the sequences that share each used slot. It knows nothing about tokens."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from labkit.errors import InvalidRequest

Slots: TypeAlias = npt.NDArray[np.int32]
"""Slot numbers in the order of a sequence's tokens, int32."""


PADDING_SLOT = 0
"""The slot that no sequence holds. The padding rows of steps that were captured as CUDA graphs write to this slot."""


class SlotAllocator:
    """Counts the references to each of the slots 1 to `num_slots`. A slot without references is free, unless it is kept.

    Kept slots hold keys and values of tokens that might occur again. A kept slot without references is idle: its contents stay
    until the prefix cache drops it. Raises `InvalidRequest` for fewer than one slot.
    """

    def __init__(self, num_slots: int) -> None:
        if num_slots < 1:
            raise InvalidRequest(f"num_slots is {num_slots}; at least 1 is accepted")
        self.num_slots = num_slots
        self.references = np.zeros(num_slots + 1, np.int32)  # the number of references to each slot
        self._kept = np.zeros(num_slots + 1, np.bool_)
        self._free = np.arange(num_slots, PADDING_SLOT, -1, dtype=np.int32)  # a stack, so that few pages of memory are used
        self.num_free = num_slots
        self.num_idle = 0

    def take(self, count: int) -> Slots:
        """Take `count` free slots, with one reference to each. The caller has checked that `num_free` is large enough."""
        assert count <= self.num_free, f"{count} slots were requested, but only {self.num_free} are free"
        taken = self._free[self.num_free - count : self.num_free][::-1].copy()
        self.num_free -= count
        self.references[taken] = 1
        return taken

    def share(self, slots: Slots) -> None:
        """Add one reference to each of these slots, which are all different."""
        self.num_idle -= int(np.count_nonzero(self._kept[slots] & (self.references[slots] == 0)))
        self.references[slots] += 1

    def release(self, slots: Slots) -> None:
        """Remove one reference from each of these slots, which are all different."""
        self.references[slots] -= 1
        left = slots[self.references[slots] == 0]
        kept = self._kept[left]
        self.num_idle += int(np.count_nonzero(kept))
        self._give_back(left[~kept])

    def keep(self, slots: Slots) -> None:
        """Keep the contents of these slots even after their last reference is gone. The slots must have references now."""
        self._kept[slots] = True

    def drop(self, slots: Slots) -> None:
        """Stop keeping these slots. Idle slots become free now; other slots become free when their last reference is gone."""
        self._kept[slots] = False
        idle = slots[self.references[slots] == 0]
        self.num_idle -= len(idle)
        self._give_back(idle)

    def _give_back(self, slots: Slots) -> None:
        self._free[self.num_free : self.num_free + len(slots)] = slots
        self.num_free += len(slots)
