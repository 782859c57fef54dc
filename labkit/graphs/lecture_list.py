"""Looks up in an optimised graph which changes of the lecture's list a graph compiler has made to a transformer."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.graphs.levels import LevelFound


@dataclass(frozen=True)
class ListItem:
    """An item of the list. done: how many places the compiler changed. places: how many places it could have changed. into: the
    new operators.
    """

    what: str
    done: int
    places: int
    into: tuple[str, ...] = ()


def lecture_list(before: LevelFound, after: LevelFound) -> list[ListItem]:
    """The items of the lecture's list, from an exported graph (level none) and an optimised graph of the same model.

    The places are counted in the exported graph. A layer norm has two reductions, and a block has one softmax and one tanh. For
    transpositions, `done` is the number of transpositions that were removed.
    """
    blocks = before.operators.get("Softmax", 0)
    transpositions = before.operators.get("Transpose", 0)
    gone = max(0, transpositions - after.operators.get("Transpose", 0))
    norms, gelus = before.operators.get("ReduceMean", 0) // 2, before.operators.get("Tanh", 0)
    return [
        _joined("reductions and powers of a layer norm in one", after, {"ReduceMean", "Pow"}, norms),
        _joined("scale joined with the product before the softmax", after, {"MatMul", "Mul"}, blocks),
        _joined("bias and GELU in one", after, {"Add", "Tanh"}, gelus),
        _joined("matrix product and GELU in one", after, {"MatMul", "Tanh"}, gelus),
        _products("query, key and value in one product", after, blocks),
        ListItem("transpositions gone", gone, transpositions),
    ]


def _joined(what: str, found: LevelFound, needed: set[str], places: int) -> ListItem:
    fitting = [one for one in found.fusions if needed <= set(one.replaced)]
    return ListItem(what, sum(one.count for one in fitting), places, tuple(sorted({one.kind for one in fitting})))


def _products(what: str, found: LevelFound, places: int) -> ListItem:
    fitting = [one for one in found.fusions if one.replaced.count("MatMul") >= 3]
    return ListItem(what, sum(one.count for one in fitting), places, tuple(sorted({one.kind for one in fitting})))
