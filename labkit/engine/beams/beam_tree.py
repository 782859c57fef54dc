"""The tokens of a beam search as a tree: beams share their common past, and a slot of the cache goes back when none needs it.

Knows nothing of scores or of the model.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.engine.outputs import TokenLogprob
from labkit.errors import InsufficientResources


class Node:
    """A token made, behind its parent's; its key and value lie in `slot` (-1: none)."""

    __slots__ = ("logprob", "parent", "references", "slot", "token")

    def __init__(self, token: int, parent: Node | None) -> None:
        self.token = token
        self.parent = parent
        self.slot = -1
        self.logprob: TokenLogprob | None = None
        self.references = 0  # children, and the beam that ends here


class BeamTree:
    """Gives slots to tokens and takes them back; `free` are the slots it may use."""

    def __init__(self, free: Iterable[int]) -> None:
        self.free = list(free)

    def add(self, token: int, parent: Node | None) -> Node:
        """A token that a beam ends in, behind `parent` (None: behind the prompt), without a slot yet."""
        if parent is not None:
            parent.references += 1
        node = Node(token, parent)
        node.references = 1
        return node

    def take(self) -> int:
        """A free slot; raises `InsufficientResources` when none is left."""
        if not self.free:
            raise InsufficientResources("beam search has no slot of the cache left; ask for fewer beams or fewer new tokens")
        return self.free.pop()

    def place(self, node: Node) -> int:
        """Give the node a slot, and say which."""
        node.slot = self.take()
        return node.slot

    def release(self, node: Node | None) -> None:
        """A beam ends here no longer: give back the slots that nothing else needs, up the branch."""
        while node is not None:
            node.references -= 1
            if node.references:
                return
            if node.slot >= 0:
                self.free.append(node.slot)
                node.slot = -1
            node = node.parent


def path(node: Node | None, last: int | None = None) -> list[Node]:
    """The nodes from the first made token to this one, or the last so many of them."""
    nodes: list[Node] = []
    while node is not None and (last is None or len(nodes) < last):
        nodes.append(node)
        node = node.parent
    return nodes[::-1]
