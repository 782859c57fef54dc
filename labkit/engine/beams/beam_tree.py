"""Keeps the tokens of a beam search as a tree: beams share their common beginning, and a slot is freed when no beam needs it.

This module knows nothing about scores or the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.engine.outputs import TokenLogprob
from labkit.errors import InsufficientResources


class Node:
    """A new token, which follows the token of `parent`. Its key and value are in the cache at `slot` (-1: no slot)."""

    __slots__ = ("logprob", "parent", "references", "slot", "token")

    def __init__(self, token: int, parent: Node | None) -> None:
        self.token = token
        self.parent = parent
        self.slot = -1
        self.logprob: TokenLogprob | None = None
        self.references = 0  # the number of the node's children, plus 1 if a beam ends at the node


class BeamTree:
    """Assigns cache slots to tokens, and frees the slots that no beam needs. `free` holds the unused slots."""

    def __init__(self, free: Iterable[int]) -> None:
        self.free = list(free)

    def add(self, token: int, parent: Node | None) -> Node:
        """Add a token at the end of a beam, after `parent` (None: after the prompt). The new node has no slot yet."""
        if parent is not None:
            parent.references += 1
        node = Node(token, parent)
        node.references = 1
        return node

    def take(self) -> int:
        """Take a free slot. Raises `InsufficientResources` when no slot is left."""
        if not self.free:
            raise InsufficientResources("beam search has no cache slot left; ask for fewer beams or fewer new tokens")
        return self.free.pop()

    def place(self, node: Node) -> int:
        """Assign a free slot to the node, and return the slot."""
        node.slot = self.take()
        return node.slot

    def release(self, node: Node | None) -> None:
        """Record that this node is no longer the last token of a beam.

        Frees the slot of this node and of each node before it, back to the nearest node that is still needed.
        """
        while node is not None:
            node.references -= 1
            if node.references:
                return
            if node.slot >= 0:
                self.free.append(node.slot)
                node.slot = -1
            node = node.parent


def path(node: Node | None, last: int | None = None) -> list[Node]:
    """The nodes from the first new token to this node; if `last` is given, only the final `last` of them."""
    nodes: list[Node] = []
    while node is not None and (last is None or len(nodes) < last):
        nodes.append(node)
        node = node.parent
    return nodes[::-1]
