"""Exercises 7.1 and 7.2: which nodes of a graph can run as one kernel, and how many bytes this kernel no longer has to move."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab07.small_graphs import (
    POINTWISE,
    Node,
    drawn_sizes,
    gelu,
    layer_norm,
    random_graph,
    unread,
)


# 7.1 ------------------------------------------------------------------------------------------------------------------
def _group_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    layer, kinds = draw.randrange(1, 28), list(POINTWISE)
    joined, norm = gelu(layer), layer_norm(layer)
    cases = [
        Case("GELU", (joined, f"h{layer}.gelu", kinds, unread(joined))),
        Case("GELU whose input is also a result", (joined, f"h{layer}.gelu", kinds, [f"h{layer}.inner", *unread(joined)])),
        Case("layer normalization", (norm, f"h{layer}.normed", kinds, unread(norm))),
    ]
    for number in range(5):
        nodes = random_graph(draw, draw.randrange(9, 19))
        ends = [name for name, kind, _ in nodes[4:] if kind in kinds] or [nodes[-1][0]]
        cases.append(
            Case(f"random graph {number + 1}, {len(nodes)} nodes", (nodes, draw.choice(ends[-3:]), kinds, unread(nodes)))
        )
    return cases


FUSIBLE_GROUP = Exercise(
    name="lab07.fusible_group",
    lab="07",
    number="7.1",
    title="Which nodes become one",
    function="fusible_group",
    statement=(
        "`nodes` is a graph: a list of `(name, operator, reads)` in the order in which the nodes run. Return the names of the nodes "
        "that can run in one kernel with the node `last`, in the order of the graph; `last` is one of them. An earlier node joins "
        "if\n\n- its operator is in `pointwise`,\n- some nodes read it, and all of them are in the group,\n- it is not in "
        "`results`, which the graph must return."
    ),
    points=12,
    minutes=9,
    difficulty=3,
    core=True,
    cases=_group_cases,
    hints=(
        "Before you can decide about a node, which other nodes must you have decided about? In which order do you go through "
        "the graph?",
        "Begin with a group that holds only the last node, and go through the nodes from back to front. The readers of a node "
        "come after it, so they are decided before it. Sort the group at the end.",
        "readers = {n for n, _, r in nodes if name in r}; whether all of them are in the group is: readers <= group (also true "
        "for no readers at all)",
    ),
)


# 7.2 ------------------------------------------------------------------------------------------------------------------
def _saved_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    layer = draw.randrange(1, 28)
    joined, norm = gelu(layer), layer_norm(layer)
    whole = [f"h{layer}.{name}" for name in ("inner", "half", "cube", "small", "sum", "inside", "tanh", "share", "gelu")]
    cases = [
        _saved_case("GELU", draw, joined, whole, []),
        _saved_case("GELU whose input is also a result", draw, joined, whole, [f"h{layer}.inner"]),
        _saved_case("a difference and its square", draw, norm, [f"h{layer}.centred", f"h{layer}.square"], []),
        _saved_case("the end of a layer normalization", draw, norm, [f"h{layer}.{one}" for one in ("scaled", "weighted")], []),
    ]
    for number in range(3):
        nodes = random_graph(draw, draw.randrange(9, 17))
        begin = draw.randrange(2, 5)
        group = [name for name, kind, _ in nodes[begin : begin + 5] if kind in POINTWISE] or [nodes[begin][0]]
        cases.append(_saved_case(f"random graph {number + 1}, a group of {len(group)}", draw, nodes, group, []))
    return cases


def _saved_case(label: str, draw: random.Random, nodes: list[Node], group: list[str], more: list[str]) -> Case:
    return Case(label, (nodes, group, drawn_sizes(draw, nodes), [*more, *unread(nodes)]))


BYTES_SAVED = Exercise(
    name="lab07.bytes_saved",
    lab="07",
    number="7.2",
    title="The bytes that a fusion saves",
    function="bytes_saved",
    statement=(
        "`sizes` maps each tensor to its bytes, weights too. A single kernel reads each of its tensors once (even if it uses one "
        "twice) and writes its own. If all nodes of `group` run in one kernel, this kernel reads each tensor from outside the group "
        "once, and writes only those of its tensors that a node outside reads or that are in `results`. Return how many fewer "
        "bytes are moved, a whole number."
    ),
    points=12,
    minutes=8,
    difficulty=3,
    core=True,
    cases=_saved_cases,
    hints=(
        "What does each node of the group move alone? What is left to move for the one kernel?",
        "Before: for each node, the set of what it reads, and its own tensor. After: the set of everything that the group reads, "
        "without the group's tensors, and those tensors of the group that somebody outside needs.",
        "before = sum(sizes[name] + sum(sizes[t] for t in set(reads)) for name, _, reads in inside); the result is before - after",
    ),
)
EXERCISES = (FUSIBLE_GROUP, BYTES_SAVED)
