"""The answers to exercises 7.1 and 7.2: references, comparisons and known mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab07.fusing import BYTES_SAVED, FUSIBLE_GROUP
from labkit.exercises.lab07.small_graphs import Node


# 7.1 ------------------------------------------------------------------------------------------------------------------
def fusible_group(nodes: list[Node], last: str, pointwise: list[str], results: list[str]) -> list[str]:
    """The reference solution of exercise 7.1."""
    return _group(nodes, last, pointwise, results)


def _group(
    nodes: list[Node],
    last: str,
    pointwise: list[str],
    results: list[str],
    *,
    from_back: bool = True,
    readers: str = "all in the group",
    only_pointwise: bool = True,
    keep_results: bool = True,
    with_last: bool = True,
    sort: bool = True,
) -> list[str]:
    """Return the group. There is an option for each rule; a known mistake sets options to wrong values."""
    group = [last]
    for name, kind, _ in reversed(nodes) if from_back else nodes:
        read_by = [one for one, _, reads in nodes if name in reads]
        fits = {
            "all in the group": bool(read_by) and set(read_by) <= set(group),
            "none, or all in the group": set(read_by) <= set(group),
            "one in the group": bool(set(read_by) & set(group)),
            "only one": len(read_by) == 1 and read_by[0] in group,
        }[readers]
        if fits and (kind in pointwise or not only_pointwise) and (name not in results or not keep_results):
            group.append(name)
    group = group if with_last else group[1:]
    return [name for name, _, _ in nodes if name in group] if sort else group


def _explain_group(case: Case, found: list[str], right: list[str]) -> str:
    nodes, last, pointwise, results = case.args
    kinds = {name: kind for name, kind, _ in nodes}
    where = f"In the case '{case.label}', your group"
    if not all(isinstance(name, str) for name in found):
        return "Return a list with the names of nodes."
    if strange := [name for name in found if name not in kinds]:
        return f"{where} has {strange[0]}, which is not a node but a weight, a constant or an input."
    if more := [name for name in found if name not in right]:
        name = more[-1]
        outside = [one for one, _, reads in nodes if name in reads and one not in right]
        why = (
            f"its operator {kinds[name]} is not pointwise"
            if kinds[name] not in pointwise
            else "the graph returns it"
            if name in results
            else f"{outside[0]}, which is not in the group, reads it"
            if outside
            else f"no path leads from it to {last}"
        )
        return f"{where} has {name}, but {why}."
    if less := [name for name in right if name not in found]:
        return f"{where} lacks {less[-1]}: its operator is pointwise, and all of its readers are in the group."
    if twice := [name for name in found if found.count(name) > 1]:
        return f"{where} has {twice[0]} more than once."
    return ""


FUSIBLE_GROUP_ANSWER = Answer(
    exercise=FUSIBLE_GROUP,
    reference=fusible_group,
    comparison=Comparison(),
    explain=_explain_group,
    any_length=True,
    mistakes=(
        Mistake(
            "You go through the graph from the front, so you reach a node before its readers are decided: go from the back, or "
            "repeat until nothing changes.",
            partial(_group, from_back=False),
        ),
        Mistake(
            "You stop at a tensor that several nodes read. It can join if all these nodes are in the group: GELU "
            "reads its input "
            "three times.",
            partial(_group, readers="only one"),
        ),
        Mistake(
            "You take a node that is also read by a node outside the group; then its tensor must be stored, and "
            "nothing is saved.",
            partial(_group, readers="one in the group"),
        ),
        Mistake(
            "You take nodes that are not pointwise. A matrix product or a mean also needs numbers from other places.",
            partial(_group, only_pointwise=False),
        ),
        Mistake("You take nodes whose tensors are results of the graph.", partial(_group, keep_results=False)),
        Mistake(
            "You take nodes whose tensors are results of the graph, even if no node reads them: 'all of its readers are in the "
            "group' is also true of a node without readers.",
            partial(_group, readers="none, or all in the group", keep_results=False),
        ),
        Mistake("The node `last` itself is missing from your group.", partial(_group, with_last=False)),
        Mistake(
            "Your group is right, but its order is not: return the names in the order of the graph.",
            partial(_group, sort=False),
        ),
    ),
)


# 7.2 ------------------------------------------------------------------------------------------------------------------
def bytes_saved(nodes: list[Node], group: list[str], sizes: dict[str, int], results: list[str]) -> int:
    """The reference solution of exercise 7.2."""
    return _saved(nodes, group, sizes, results)


def _saved(
    nodes: list[Node],
    group: list[str],
    sizes: dict[str, int],
    results: list[str],
    *,
    once_alone: bool = True,
    reads_count: bool = True,
    writes_count: bool = True,
    from_outside: str = "once",
    written: str = "needed",
    answer: str = "saved",
) -> int:
    """Return the number of bytes saved. There is an option for each step of the calculation.

    A known mistake sets options to wrong values.
    """
    inside = [node for node in nodes if node[0] in group]

    def total(names: Iterable[str]) -> int:
        return sum(sizes[name] for name in names)

    read_alone = sum(total(set(reads) if once_alone else reads) for _, _, reads in inside)
    outer = [name for _, _, reads in inside for name in (set(reads) if once_alone else reads) if name not in group]
    read_joined = total({"once": set(outer), "never": set(), "by each node": outer}[from_outside])
    read_outside = {name for name, _, _ in inside if any(name in reads for one, _, reads in nodes if one not in group)}
    wanted = {name for name in group if name in results}
    stored = {
        "needed": read_outside | wanted,
        "read outside": read_outside,
        "results": wanted,
        "the last": {inside[-1][0]},
        "none": set(),
    }[written]
    before = reads_count * read_alone + writes_count * total(group)
    after = reads_count * read_joined + writes_count * total(stored)
    inner = [name for name in group if name not in stored]
    reads_of = {name: sum(reads.count(name) if not once_alone else name in reads for _, _, reads in inside) for name in inner}
    return {
        "saved": before - after,
        "before": before,
        "after": after,
        "negative": after - before,
        "a write and a read of each inner tensor": 2 * total(inner),
        "all trips of each inner tensor": sum((1 + reads_of[name]) * sizes[name] for name in inner),
    }[answer]


BYTES_SAVED_ANSWER = Answer(
    exercise=BYTES_SAVED,
    reference=bytes_saved,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "A kernel reads each of its tensors once, even if it uses a tensor twice (as in x times x); you count it twice.",
            partial(_saved, once_alone=False),
        ),
        Mistake("You count only what is written; reading a tensor costs as much.", partial(_saved, reads_count=False)),
        Mistake(
            "You save only reads: you do not count what is written, or you still write every tensor of the group. "
            "Tensors that only "
            "the group reads stay in registers.",
            partial(_saved, writes_count=False),
        ),
        Mistake(
            "The fused kernel still has to read the tensors from outside the group.", partial(_saved, from_outside="never")
        ),
        Mistake(
            "The fused kernel reads a tensor from outside once for all of its nodes; you count it for each node.",
            partial(_saved, from_outside="by each node"),
        ),
        Mistake("The results of the graph are written, even if no node reads them.", partial(_saved, written="read outside")),
        Mistake(
            "A tensor that a node outside the group reads must be written; you write only results of the graph.",
            partial(_saved, written="results"),
        ),
        Mistake(
            "You write only the tensor of the last node, but other tensors of the group may also be needed outside.",
            partial(_saved, written="the last"),
        ),
        Mistake(
            "The fused kernel has to write the tensors that are needed outside; you write nothing.",
            partial(_saved, written="none"),
        ),
        Mistake("You return the bytes that are left; return the bytes that are saved.", partial(_saved, answer="after")),
        Mistake(
            "You return the bytes of the separate kernels; return the bytes that are saved.", partial(_saved, answer="before")
        ),
        Mistake(
            "You count each tensor that stays in registers twice: written once and read once. But several nodes of "
            "the group may "
            "read it. Also, a tensor from outside that several of these nodes read is now read only once.",
            partial(_saved, answer="a write and a read of each inner tensor"),
        ),
        Mistake(
            "You count only the tensors that stay in registers. Reads of other tensors are also saved: of a tensor "
            "from outside "
            "with several readers in the group, and of a tensor that the group makes and still has to write.",
            partial(_saved, answer="all trips of each inner tensor"),
        ),
        Mistake("The sign is wrong: fewer bytes are moved, and this is a positive number.", partial(_saved, answer="negative")),
    ),
)
ANSWERS = (FUSIBLE_GROUP_ANSWER, BYTES_SAVED_ANSWER)
