"""The answers to exercises 7.3 and 7.4: references, comparisons and known mistakes."""

from __future__ import annotations

from functools import partial
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab07.cutting import BEST_SEAM, CROSSING_TENSORS
from labkit.exercises.lab07.small_graphs import Node


# 7.3 ------------------------------------------------------------------------------------------------------------------
def crossing_tensors(nodes: list[Node], first: int) -> list[str]:
    """The reference solution of exercise 7.3."""
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
    """Return the names of the tensors that cross the cut. There is an option for each rule.

    A known mistake sets options to wrong values.
    """
    first += off
    one, two = nodes[:first], nodes[first:]
    needed = [name for _, _, reads in two for name in reads]
    found = {
        "needed": [name for name, _, _ in one if name in needed],
        "the last": [one[-1][0]],
        "all of part 1": [name for name, _, _ in one],
        "all that part 2 reads": list(dict.fromkeys(needed)),
        "also tensors of part 2": [name for name, _, _ in nodes if name in needed],
    }[sent]
    if not once:
        found = [name for name in found for _ in range(max(1, needed.count(name)))]
    if order == "readers":
        return [name for name in (dict.fromkeys(needed) if once else needed) if name in found]
    return sorted(found) if order == "alphabet" else found


def _explain_crossing(case: Case, found: list[Any], right: list[str]) -> str:
    nodes, first = case.args
    where = f"In the case '{case.label}', your list"
    place = {name: number for number, (name, _, _) in enumerate(nodes)}
    if strange := [name for name in found if name not in place]:
        return f"{where} has {strange[0]}, which no node makes: each part has the weights and inputs that it needs."
    if late := [name for name in found if place[name] >= first]:
        return f"{where} has {late[0]}, which is made in part 2 itself."
    if more := [name for name in found if name not in right]:
        return f"{where} has {more[0]}, which no node of part 2 reads."
    if less := [name for name in right if name not in found]:
        return f"{where} lacks {less[0]}, which a node of part 2 reads."
    if twice := [name for name in found if found.count(name) > 1]:
        return f"{where} has {twice[0]} more than once."
    return f"{where} has the right tensors, but not in the order in which the nodes of the graph make them."


CROSSING_TENSORS_ANSWER = Answer(
    exercise=CROSSING_TENSORS,
    reference=crossing_tensors,
    comparison=Comparison(),
    explain=_explain_crossing,
    any_length=True,
    mistakes=(
        Mistake(
            "You send only the tensor of the last node. In GPT-J the residual bypasses attention and MLP, and also crosses.",
            partial(_crossing, sent="the last"),
        ),
        Mistake(
            "You send everything that part 1 makes, but most of it is read only inside part 1.",
            partial(_crossing, sent="all of part 1"),
        ),
        Mistake(
            "You send weights and inputs, which no node makes; part 2 already has the ones that it needs.",
            partial(_crossing, sent="all that part 2 reads"),
        ),
        Mistake(
            "Some of your tensors are made in part 2 itself, so they do not cross.",
            partial(_crossing, sent="also tensors of part 2"),
        ),
        Mistake("You send a tensor once for each of its readers; once is enough.", partial(_crossing, once=False)),
        Mistake("Your part 1 has one node too many.", partial(_crossing, off=1)),
        Mistake("Your part 1 has one node too few.", partial(_crossing, off=-1)),
        Mistake(
            "Your tensors are sorted by their names; return them in the order of the graph.",
            partial(_crossing, order="alphabet"),
        ),
        Mistake(
            "Your tensors are in the order in which part 2 reads them; return them in the order in which the graph makes them.",
            partial(_crossing, order="readers"),
        ),
    ),
)


# 7.4 ------------------------------------------------------------------------------------------------------------------
def best_seam(nodes: list[Node], work: dict[str, int], sizes: dict[str, int], most: int) -> int | None:
    """The reference solution of exercise 7.4."""
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
    """Return the number of nodes in part 1. There is an option for each rule; a known mistake sets options to wrong values."""
    cuts = []
    for first in range(0 if ends else 1, len(nodes) + 1 if ends else len(nodes)):
        crossing = _crossing(nodes, first, sent=sent, once=once) if first else []
        size = sum(sizes[name] for name in crossing) if first < len(nodes) else 0
        if limited and (size > most or (strict and size == most)):
            continue
        times = [sum(work[name] for name, _, _ in part) for part in (nodes[:first], nodes[first:])]
        rank: tuple[int, ...] = {
            "slower part": (max(times), size * ties),
            "part 1": (-times[0], size * ties),
            "nodes": (max(first, len(nodes) - first), size * ties),
            "bytes": (size, max(times)),
        }[balance]
        cuts.append((*rank, first))
    return min(cuts)[-1] if cuts else None


def _explain_seam(case: Case, found: int, right: int | None) -> str:
    nodes, work, sizes, most = case.args
    where = f"In the case '{case.label}',"
    if not 0 < found < len(nodes):
        return f"{where} your part 1 has {found} of {len(nodes)} nodes; each part must have at least one."
    sent = sum(sizes[name] for name in _crossing(nodes, found))
    if sent > most or right is None:
        return f"{where} your cut sends {sent} bytes, but only {most} are allowed."
    slower = [max(sum(work[name] for name, _, _ in part) for part in (nodes[:cut], nodes[cut:])) for cut in (found, right)]
    if slower[0] > slower[1]:
        return (
            f"{where} the slower part of your cut takes {slower[0]} microseconds; in another allowed cut, the slower "
            "part is faster."
        )
    return f"{where} another cut divides the time as well as yours, and sends fewer bytes."


BEST_SEAM_ANSWER = Answer(
    exercise=BEST_SEAM,
    reference=best_seam,
    comparison=Comparison(),
    explain=_explain_seam,
    mistakes=(
        Mistake(
            "You count only the tensor of the last node of part 1, but the residual bypasses attention and MLP and is "
            "also sent.",
            partial(_seam, sent="the last"),
        ),
        Mistake("You count a tensor once for each of its readers; it is sent once.", partial(_seam, once=False)),
        Mistake("Your cut sends more bytes than `most`.", partial(_seam, limited=False)),
        Mistake("A cut that sends exactly `most` bytes is allowed.", partial(_seam, strict=True)),
        Mistake(
            "You divide the number of nodes evenly, but the time of the nodes is what counts.", partial(_seam, balance="nodes")
        ),
        Mistake(
            "You look at part 1 only. The slower part decides how many requests per second can pass.",
            partial(_seam, balance="part 1"),
        ),
        Mistake(
            "You take the cut with the fewest bytes. All cuts within the limit are allowed: take the one with the "
            "best balance.",
            partial(_seam, balance="bytes"),
        ),
        Mistake(
            "Of two cuts that divide the time equally well, take the one that sends fewer bytes.", partial(_seam, ties=False)
        ),
        Mistake("A part without nodes is not a part: if every cut sends too much, return None.", partial(_seam, ends=True)),
    ),
)
ANSWERS = (CROSSING_TENSORS_ANSWER, BEST_SEAM_ANSWER)
