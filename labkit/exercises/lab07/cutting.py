"""Exercises 7.3 and 7.4: which tensors cross a cut through a graph, and where to cut."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab07.small_graphs import Node, gptj, random_graph


# 7.3 ------------------------------------------------------------------------------------------------------------------
def _crossing_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    nodes = gptj(3)
    cuts = {"inside attention": 5, "between attention and MLP": 7, "before the residual": 11, "between two blocks": 12}
    layer = draw.randrange(2)
    cases = [Case(f"GPT-J, block {layer}, {where}", (nodes, 11 * layer + first)) for where, first in cuts.items()]
    for number in range(4):
        other = random_graph(draw, draw.randrange(12, 19))
        cases.append(Case(f"random graph {number + 1}, {len(other)} nodes", (other, draw.randrange(4, len(other) - 3))))
    return cases


CROSSING_TENSORS = Exercise(
    name="lab07.crossing_tensors",
    lab="07",
    number="7.3",
    title="What crosses a cut",
    function="crossing_tensors",
    statement=(
        "A graph is cut: part 1 has the first `first` nodes, part 2 has the others. Return the names of the tensors that part "
        "1 must send to part 2, each once, in the order of the graph. No node makes weights or inputs; each part has "
        "those that it needs, so they are not sent."
    ),
    points=8,
    minutes=5,
    difficulty=2,
    core=True,
    cases=_crossing_cases,
    hints=(
        "Who makes a tensor that crosses the cut, and who reads it?",
        "Collect everything that the nodes of part 2 read. Of the nodes of part 1, keep those whose names are in it.",
        "needed = {name for _, _, reads in nodes[first:] for name in reads}",
    ),
)


# 7.4 ------------------------------------------------------------------------------------------------------------------
def _seam_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for layers in (3, 5):
        nodes, hidden = gptj(layers), 4 * draw.randrange(100, 400)
        sizes, work = _gptj_sizes(draw, nodes, hidden), _work(draw, nodes)
        for words, most in (
            ("one hidden state may cross", hidden),
            ("three may cross", 3 * hidden),
            ("too little may cross", hidden - 4),
        ):
            cases.append(Case(f"GPT-J with {layers} blocks, {words}", (nodes, work, sizes, most)))
    cases.append(Case("two cuts that divide the work equally", _equal_cuts(draw)))
    for number in range(2):
        nodes = random_graph(draw, draw.randrange(12, 19))
        sizes = {name: 4 * draw.randrange(20, 300) for name, _, _ in nodes}
        cases.append(Case(f"random graph {number + 1}", (nodes, _work(draw, nodes), sizes, draw.randrange(1500, 3000))))
    return cases


def _gptj_sizes(draw: random.Random, nodes: list[Node], hidden: int) -> dict[str, int]:
    wide = {"inner", "gelu"}
    sizes = {name: 4 * hidden if name.split(".")[-1] in wide else hidden for name, _, _ in nodes}
    return sizes | {"logits": 4 * draw.randrange(1000, 2000)}


def _work(draw: random.Random, nodes: list[Node]) -> dict[str, int]:
    """Random microseconds for each node: matrix products take the longest, and the head longer than other matrix products."""
    work = {
        name: draw.randrange(200, 400) if kind in ("MatMul", "Attention") else draw.randrange(1, 20) for name, kind, _ in nodes
    }
    return work | {name: draw.randrange(900, 1500) for name in work if name == "logits"}


def _equal_cuts(draw: random.Random) -> tuple[list[Node], dict[str, int], dict[str, int], int]:
    """A graph in which a view takes no time, so that the cuts before and after it divide the work equally."""
    nodes: list[Node] = [
        ("a", "MatMul", ["x", "weight_a"]),
        ("b", "Concat", ["a", "x"]),
        ("view", "Slice", ["b"]),
        ("c", "MatMul", ["view", "weight_c"]),
    ]
    long, short = draw.randrange(100, 200), draw.randrange(1, 50)
    return nodes, {"a": long - short, "b": short, "view": 0, "c": long}, {"a": 40, "b": 400, "view": 200, "c": 40}, 1000


BEST_SEAM = Exercise(
    name="lab07.best_seam",
    lab="07",
    number="7.4",
    title="The best seam",
    function="best_seam",
    statement=(
        "`work` maps each node to its microseconds, `sizes` each node's tensor to its bytes. Find a cut with at least one node on "
        "each side, over which at most `most` bytes are sent. Of these cuts, take the one whose slower part is the fastest; if "
        "several are equal, the one that sends the fewest bytes. Return the number of nodes of part 1, or None if there is no "
        "such cut."
    ),
    points=10,
    minutes=10,
    difficulty=3,
    cases=_seam_cases,
    hints=(
        "For one cut: which bytes are sent, and how long does each part take? Which of the two parts counts?",
        "Try every cut. Leave out those that send too much, and compare the others by a pair: the longer time first, the bytes "
        "second.",
        "With cuts.append((slower, sent, first)) for each allowed cut, min(cuts) compares the times first; `cuts` may be empty.",
    ),
)
EXERCISES = (CROSSING_TENSORS, BEST_SEAM)
