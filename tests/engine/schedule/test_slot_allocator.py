"""Slots and prefixes are compared with a simple model of the required behaviour."""

from __future__ import annotations

import random

import numpy as np
import pytest

from labkit.engine.schedule.prefix_cache import PrefixCache
from labkit.engine.schedule.slot_allocator import SlotAllocator
from labkit.errors import InvalidRequest


def test_slots_are_handed_out_once_and_come_back_with_their_last_reference() -> None:
    slots = SlotAllocator(10)
    first, second = slots.take(4), slots.take(6)
    assert sorted([*first, *second]) == list(range(1, 11))
    slots.share(first[:2])
    slots.release(first)
    assert slots.num_free == 2
    assert sorted(slots.take(2)) == sorted(first[2:])
    slots.release(first[:2])
    assert slots.num_free == 2
    with pytest.raises(AssertionError, match="3 slots were requested, but only 2 are free"):
        slots.take(3)


def test_a_kept_slot_is_idle_until_it_is_dropped() -> None:
    slots = SlotAllocator(5)
    mine = slots.take(3)
    slots.keep(mine)
    slots.release(mine)
    assert (slots.num_free, slots.num_idle) == (2, 3)
    slots.share(mine[:1])
    assert (slots.num_free, slots.num_idle) == (2, 2)
    slots.drop(mine)
    assert (slots.num_free, slots.num_idle) == (4, 0)
    slots.release(mine[:1])
    assert (slots.num_free, slots.num_idle) == (5, 0)


def test_a_pool_of_no_slots_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="num_slots is 0"):
        SlotAllocator(0)


class Plain:
    """All prefixes in a dictionary. The dictionary holds the same information as the tree, in a simpler form."""

    def __init__(self) -> None:
        self.slot_of: dict[tuple[int, ...], int] = {}

    def match(self, tokens: list[int]) -> list[int]:
        found: list[int] = []
        while len(found) < len(tokens) and (prefix := tuple(tokens[: len(found) + 1])) in self.slot_of:
            found.append(self.slot_of[prefix])
        return found

    def insert(self, tokens: list[int], slots: list[int]) -> list[int]:
        for count in range(len(self.match(tokens)), len(tokens)):
            self.slot_of[tuple(tokens[: count + 1])] = slots[count]
        return self.match(tokens)

    def drop(self, slots: set[int]) -> None:
        self.slot_of = {prefix: slot for prefix, slot in self.slot_of.items() if slot not in slots}


@pytest.mark.parametrize("seed", range(12))
def test_the_tree_finds_and_keeps_what_a_dictionary_of_all_prefixes_does(seed: int) -> None:
    """The texts have only two letters, so the tree branches everywhere. Some texts grow while prefixes of other texts are
    dropped.
    """
    draw = random.Random(seed)
    slots = SlotAllocator(60)
    tree, plain = PrefixCache(slots), Plain()
    held: list[np.ndarray] = []  # type: ignore[type-arg]
    for _ in range(300):
        tokens = [draw.randrange(2) for _ in range(draw.randint(1, 12))]
        shared = tree.match(tokens[:-1])
        assert shared.tolist() == plain.match(tokens[:-1])
        slots.share(shared)
        needed = len(tokens) - len(shared)
        kept_before = set(plain.slot_of.values())
        available = slots.num_free + slots.num_idle
        tree.evict(needed - slots.num_free)
        assert slots.num_free >= min(needed, available), "idle slots were not given up"
        left = set(np.flatnonzero(slots._kept).tolist())
        plain.drop(kept_before - left)
        assert all(prefix[:-1] in plain.slot_of for prefix in plain.slot_of if len(prefix) > 1), "a hole in a text"
        if slots.num_free < needed:
            slots.release(shared)
        else:
            mine = np.concatenate((shared, slots.take(needed)))
            now = tree.insert(tokens, mine)
            assert now.tolist() == plain.insert(tokens, mine.tolist())
            slots.share(now)
            slots.release(mine)
            held.append(now)
        while held and draw.random() < 0.6:
            slots.release(held.pop(draw.randrange(len(held))))
        assert tree.num_slots == len(plain.slot_of)
        referred = {int(slot) for row in held for slot in row}
        assert slots.num_idle == len(set(plain.slot_of.values()) - referred)
        assert slots.num_free == 60 - len(set(plain.slot_of.values()) | referred)
    for row in held:
        slots.release(row)
    tree.evict(60)
    assert (slots.num_free, tree.num_slots) == (60, 0)
    assert not slots.references.any()


def test_the_least_recently_used_text_is_given_up_first_and_from_its_end() -> None:
    slots = SlotAllocator(9)
    tree = PrefixCache(slots)
    for text in ([1, 2, 3], [1, 2, 4], [5, 6, 7]):
        mine = slots.take(3)
        tree.insert(text, mine)
        slots.release(mine)
    tree.match([1, 2, 3])
    tree.evict(1)
    assert len(tree.match([1, 2, 4])) == 2
    tree.evict(2)
    assert [len(tree.match(text)) for text in ([5, 6, 7], [1, 2, 3])] == [1, 3]


def test_what_somebody_refers_to_is_not_given_up() -> None:
    slots = SlotAllocator(6)
    tree = PrefixCache(slots)
    mine = slots.take(6)
    tree.insert([1, 2, 3, 4, 5, 6], mine)
    slots.release(mine)
    shared = tree.match([1, 2, 3])
    slots.share(shared)
    tree.evict(100)
    assert slots.num_free == 3
    assert tree.match([1, 2, 3, 4]).tolist() == shared.tolist()


def test_after_forgetting_nothing_is_found_and_nothing_is_lost() -> None:
    slots = SlotAllocator(4)
    tree = PrefixCache(slots)
    mine = slots.take(3)
    tree.insert([1, 2, 3], mine)
    tree.clear()
    assert len(tree.match([1, 2, 3])) == 0
    assert (tree.epoch, slots.num_free) == (1, 1)
    slots.release(mine)
    assert slots.num_free == 4
