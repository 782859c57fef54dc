"""The answers to exercises 7.3 and 7.4: references, comparisons and known mistakes."""

from __future__ import annotations

from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab07.cutting import BEST_SEAM, CROSSING_TENSORS
from labkit.exercises.lab07.small_graphs import Node


# 7.3 ------------------------------------------------------------------------------------------------------------------
def crossing_tensors(nodes: list[Node], first: int) -> list[str]:
    """The reference of exercise 7.3."""
    return _crossing(nodes, first)


def _crossing(
    nodes: list[Node],
    first: int,
    *,
    sent: str = "needed",
    off: int = 0,
    once: bool = True,
    order: str = "graph",
) -> list[str]:
    """The tensors that cross, with an option for each rule. A known mistake sets options to wrong values."""
    first += off
    one, two = nodes[:first], nodes[first:]
    needed = [name for _, _, reads in two for name in reads]
    found = {
        "needed": [name for name, _, _ in one for _ in range(1 if once else needed.count(name)) if name in needed],
        "the last": [one[-1][0]],
        "all of part one": [name for name, _, _ in one],
        "all that part two reads": list(dict.fromkeys(needed)),
        "also tensors of part two": [name for name, _, _ in nodes if name in needed],
    }[sent]
    return sorted(found) if order == "alphabet" else found


CROSSING_TENSORS_ANSWER = Answer(
    exercise=CROSSING_TENSORS,
    reference=crossing_tensors,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You send only the tensor of the last node. In GPT-J the residual goes past attention and MLP, and crosses as well.",
            partial(_crossing, sent="the last"),
        ),
        Mistake(
            "You send everything that part one makes, but most of it is read only inside part one.",
            partial(_crossing, sent="all of part one"),
        ),
        Mistake(
            "You send weights and inputs, which no node makes; part two has those that it needs.",
            partial(_crossing, sent="all that part two reads"),
        ),
        Mistake(
            "Some of your tensors are made in part two itself; they do not cross.",
            partial(_crossing, sent="also tensors of part two"),
        ),
        Mistake("You send a tensor once for each of its readers; once is enough.", partial(_crossing, once=False)),
        Mistake("Your part one has one node too many.", partial(_crossing, off=1)),
        Mistake("Your part one has one node too few.", partial(_crossing, off=-1)),
        Mistake(
            "Your tensors are sorted by their names; return them in the order of the graph.",
            partial(_crossing, order="alphabet"),
        ),
    ),
)


# 7.4 ------------------------------------------------------------------------------------------------------------------
def best_seam(nodes: list[Node], work: dict[str, int], sizes: dict[str, int], most: int) -> int | None:
    """The reference of exercise 7.4."""
    return _seam(nodes, work, sizes, most)


def _seam(
    nodes: list[Node],
    work: dict[str, int],
    sizes: dict[str, int],
    most: int,
    *,
    sent: str = "needed",
    once: bool = True,
    limited: bool = True,
    strict: bool = False,
    balance: str = "slower part",
    ties: bool = True,
    ends: bool = False,
) -> int | None:
    """The cut, with an option for each rule. A known mistake sets options to wrong values."""
    cuts = []
    for first in range(0 if ends else 1, len(nodes) + 1 if ends else len(nodes)):
        crossing = _crossing(nodes, first, sent=sent, once=once) if first else []
        size = sum(sizes[name] for name in crossing) if first < len(nodes) else 0
        if limited and (size > most or (strict and size == most)):
            continue
        times = [sum(work[name] for name, _, _ in part) for part in (nodes[:first], nodes[first:])]
        rank: tuple[int, ...] = {
            "slower part": (max(times), size * ties),
            "part one": (-times[0], size * ties),
            "nodes": (max(first, len(nodes) - first), size * ties),
            "bytes": (size, max(times)),
        }[balance]
        cuts.append((*rank, first))
    return min(cuts)[-1] if cuts else None


BEST_SEAM_ANSWER = Answer(
    exercise=BEST_SEAM,
    reference=best_seam,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You count only the tensor of the last node of part one, but the residual goes past attention and MLP, and is sent, too.",
            partial(_seam, sent="the last"),
        ),
        Mistake("You count a tensor once for each of its readers; it is sent once.", partial(_seam, once=False)),
        Mistake("Your cut sends more bytes than `most`.", partial(_seam, limited=False)),
        Mistake("A cut that sends exactly `most` bytes is allowed.", partial(_seam, strict=True)),
        Mistake("You divide the number of nodes evenly, but what counts is their time.", partial(_seam, balance="nodes")),
        Mistake(
            "You look at part one only. The slower part decides how many requests per second can pass.",
            partial(_seam, balance="part one"),
        ),
        Mistake(
            "You take the cut with the fewest bytes. All cuts within the bound are allowed: take the one with the best balance.",
            partial(_seam, balance="bytes"),
        ),
        Mistake("Of two cuts that divide the time alike, take the one that sends fewer bytes.", partial(_seam, ties=False)),
        Mistake("A part without nodes is not a part: if every cut sends too much, return None.", partial(_seam, ends=True)),
    ),
)
ANSWERS = (CROSSING_TENSORS_ANSWER, BEST_SEAM_ANSWER)
