"""Finds the longest prefix of a text whose keys and values are still in the cache, with a radix tree from token ids to slots.

Each slot belongs to one token, so a common prefix of any length can be shared. This module knows nothing about running
sequences.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from labkit.engine.schedule.slot_allocator import SlotAllocator, Slots

Tokens: TypeAlias = npt.NDArray[np.int64]


class Node:
    """A node of the tree: consecutive tokens and their slots.

    `children`: the nodes that follow this node; the key of each child is the child's first token.
    """

    def __init__(self, tokens: Tokens, slots: Slots, parent: Node | None) -> None:
        self.tokens = tokens
        self.slots = slots
        self.parent = parent
        self.children: dict[int, Node] = {}


class PrefixCache:
    """Keeps the slots of computed tokens in `allocator`. The least recently used slots are evicted first.

    `epoch` counts how often the cache was cleared: slots that were computed in an earlier epoch must not be inserted.
    """

    def __init__(self, allocator: SlotAllocator) -> None:
        self._allocator = allocator
        self._root = Node(np.empty(0, np.int64), np.empty(0, np.int32), None)
        # The least recently used nodes come first. When a node is used, its ancestors are moved after it, so leaves come before
        # ancestors.
        self._order: OrderedDict[Node, None] = OrderedDict()
        self.epoch = 0
        self.num_slots = 0

    def match(self, tokens: Sequence[int] | Tokens) -> Slots:
        """Find the slots of the longest cached prefix of `tokens`.

        Call the allocator's `share` with these slots before any other method.
        """
        node, inside, _ = self._walk(np.asarray(tokens, np.int64))
        self._touch(node)
        return self._path(node, inside)

    def insert(self, tokens: Sequence[int] | Tokens, slots: Slots) -> Slots:
        """Keep the slots of these tokens, except the slots of a prefix that is already cached.

        The caller must hold references to the given slots. Returns the cached slots of all the tokens; for a prefix that was
        already cached, these can differ from the given slots. A caller that continues the text must then hold references to the
        returned slots instead, because every holder of a slot must also hold the slots of all earlier tokens.
        """
        given = np.asarray(tokens, np.int64)
        node, inside, depth = self._walk(given)
        if depth < len(given):
            if inside < len(node.tokens):
                node = self._split(node, inside)
            leaf = Node(given[depth:].copy(), slots[depth : len(given)].copy(), node)
            node.children[int(given[depth])] = leaf
            self._allocator.keep(leaf.slots)
            self.num_slots += len(leaf.slots)
            node, inside = leaf, len(leaf.slots)
        self._touch(node)
        return self._path(node, inside)

    def evict(self, count: int) -> None:
        """Free `count` idle slots (all of them if there are fewer), starting at the ends of the least recently used texts."""
        for node in list(self._order) if count > 0 else ():
            if count <= 0:
                return
            if not node.children:
                idle = int(np.count_nonzero(self._allocator.references[node.slots] == 0))
                count -= self._cut(node, min(idle, count))

    def clear(self) -> None:
        """Remove all texts and begin a new epoch."""
        for node in self._order:
            self._allocator.drop(node.slots)
        self._order.clear()
        self._root.children.clear()
        self.num_slots = 0
        self.epoch += 1

    def _walk(self, tokens: Tokens) -> tuple[Node, int, int]:
        """Return the node in which the longest cached prefix ends, how many of its tokens match, and the prefix's length."""
        node, inside, depth = self._root, 0, 0
        while inside == len(node.tokens) and depth < len(tokens) and int(tokens[depth]) in node.children:
            node = node.children[int(tokens[depth])]
            inside = _common(node.tokens, tokens[depth:])
            depth += inside
        return node, inside, depth

    @staticmethod
    def _path(node: Node, inside: int) -> Slots:
        """The slots from the root to a node, including the slots of the node's first `inside` tokens."""
        found: list[Slots] = [node.slots[:inside]]
        while node.parent is not None:
            node = node.parent
            found.append(node.slots)
        path: Slots = np.concatenate(found[::-1])
        return path

    def _split(self, node: Node, at: int) -> Node:
        """Split a node after `at` tokens. Returns the new upper node."""
        assert node.parent is not None
        upper = Node(node.tokens[:at], node.slots[:at], node.parent)
        node.parent.children[int(upper.tokens[0])] = upper
        node.tokens, node.slots, node.parent = node.tokens[at:], node.slots[at:], upper
        upper.children[int(node.tokens[0])] = node
        self._order[upper] = None
        return upper

    def _cut(self, leaf: Node, count: int) -> int:
        """Free the last `count` slots of a leaf.

        These slots must be idle. Idle slots are always the last slots of a leaf, because every holder of a slot also holds all
        slots before it.
        """
        assert leaf.parent is not None
        left = len(leaf.slots) - count
        self._allocator.drop(leaf.slots[left:])
        self.num_slots -= count
        if left == 0:
            del leaf.parent.children[int(leaf.tokens[0])]
            del self._order[leaf]
        leaf.tokens, leaf.slots = leaf.tokens[:left], leaf.slots[:left]
        return count

    def _touch(self, node: Node) -> None:
        while node.parent is not None:
            self._order[node] = None
            self._order.move_to_end(node)
            node = node.parent


def _common(first: Tokens, second: Tokens) -> int:
    """The length of the longest common prefix of two token sequences."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
