"""Draws lab 07's measurements: a block before and after fusion, kernels and bytes, and the bytes that cross each cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from labkit.exercises.lab07.real_graphs import StepGraph
from labkit.exercises.lab07.small_graphs import Node
from labkit.measure.plots import COLOURS, DARK, GREY, HATCHES, NUMBER_SIZE, ink_on, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAVES = ("Gather", "GatherND", "Unsqueeze", "Shape", "Cast")
"""Operators at which the drawing of a block ends: lookups and shape arithmetic."""
GROUP_COLOURS = (COLOURS[1], COLOURS[4], COLOURS[3], COLOURS[5])
NEW_COLOUR = COLOURS[2]
"""The colour of an operator that a compiler made. No group has this colour."""
SINGLE = "#EBEBEB"


def norm_and_mlp(graph: StepGraph) -> list[Node]:
    """The nodes of the first block from its layer norm to the last matrix product of its MLP, in order."""
    made = {name: (name, kind, reads) for name, kind, reads in graph.nodes}
    waiting = [next(node[0] for node in graph.nodes if any("h.0.mlp.fc_out.weight" in read for read in node[2]))]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in made and name not in found and made[name][1] not in LEAVES:
            found.add(name)
            waiting += made[name][2]
    return [node for node in graph.nodes if node[0] in found]


def kernels_left(nodes: Sequence[Node], groups: Sequence[Sequence[str]]) -> int:
    """How many kernels the nodes need if each group runs as one kernel."""
    names = {name for name, _, _ in nodes}
    return len(nodes) - sum(len(group) - 1 for group in groups if names & set(group))


def in_operators(graph: StepGraph, groups: Sequence[Sequence[str]]) -> dict[str, int]:
    """How often each kind of group occurs, most frequent first. The kind is the list of operators, such as "Mul Mul Add"."""
    kinds = {name: kind for name, kind, _ in graph.nodes}
    return dict(Counter(" ".join(kinds[name] for name in group) for group in groups).most_common())


def before_and_after(before: StepGraph, after: StepGraph, groups: Sequence[Sequence[str]]) -> Figure:
    """Draw the layer norm and the MLP of the first block as two graphs.

    The first graph is as exported, with a learner's groups in colour. The second graph is as a compiler runs it.
    """
    left, right = norm_and_mlp(before), norm_and_mlp(after)
    own = kernels_left(left, groups)
    caption = (
        "Left: as exported; boxes of one colour are one of your groups, grey boxes run alone. Right: after ONNX Runtime's "
        "level 'all'; green boxes are operators that did not exist before."
    )
    title = f"Layer norm and MLP of a block: {len(left)} kernels, {own} with your groups, {len(right)} in ONNX Runtime"
    figure = new_figure(title, caption, width=8.2, height=1.1 + 0.36 * (1 + max(map(len, map(_levels, (left, right))))))
    colour_of: dict[str, str] = {}
    shown = [group for group in groups if any(node[0] in group for node in left)]
    for number, group in enumerate(shown):
        colour_of |= dict.fromkeys(group, GROUP_COLOURS[number % len(GROUP_COLOURS)])
    known = {kind for _, kind, _ in before.nodes}
    fused = {name: NEW_COLOUR for name, kind, _ in right if kind not in known}
    rows = max(map(len, map(_levels, (left, right))))
    for axes, nodes, colours in zip(figure.subplots(1, 2), (left, right), (colour_of, fused), strict=True):
        _draw(axes, nodes, colours, rows)
    return figure


def _levels(nodes: Sequence[Node]) -> list[list[str]]:
    """The nodes by depth: each node is one level below the deepest node that it reads."""
    depth: dict[str, int] = {}
    for name, _, reads in nodes:
        depth[name] = 1 + max((depth[read] for read in reads if read in depth), default=-1)
    return [[name for name in depth if depth[name] == level] for level in range(max(depth.values(), default=-1) + 1)]


def _draw(axes: Any, nodes: Sequence[Node], colours: Mapping[str, str], rows: int) -> None:
    """Draw a graph from top to bottom, with room for `rows` rows."""
    levels, kinds = _levels(nodes), {name: kind for name, kind, _ in nodes}
    place = {name: (lane - (len(level) - 1) / 2, row) for row, level in enumerate(levels) for lane, name in enumerate(level)}
    for name, _, reads in nodes:
        for read in dict.fromkeys(read for read in reads if read in place):
            is_far, is_left = place[name][1] - place[read][1] > 1, place[read][0] < 0
            bend = 0.0 if not is_far else 0.4 if is_left else -0.45
            axes.annotate(
                "",
                place[name],
                place[read],
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": GREY,
                    "shrinkA": 9,
                    "shrinkB": 9,
                    "connectionstyle": f"arc3,rad={bend}",
                },
            )
    for name, at in place.items():
        colour = colours.get(name, SINGLE)
        box = {"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": DARK, "linewidth": 0.7}
        axes.text(*at, kinds[name], ha="center", va="center", fontsize=NUMBER_SIZE, color=ink_on(colour), bbox=box)
    axes.set(xlim=(-1.6, 1.6), ylim=(rows - 0.4, -0.6))
    axes.set_axis_off()


def kernels_and_bytes(rows: Mapping[str, tuple[int, int]], guess: float, *, title: str, caption: str = "") -> Figure:
    """Two bar charts: kernels, and megabytes read and written. `rows` maps each name to its kernels and bytes.

    guess: the predicted megabytes of the second row, drawn as a diamond below its bar.
    """
    figure = new_figure(title, caption, width=8.2, height=3.2)
    names, places = list(rows), range(len(rows))
    sides: tuple[tuple[list[float], str, str], ...] = (
        ([row[0] for row in rows.values()], "kernels", "{:,.0f}"),
        ([row[1] / 1e6 for row in rows.values()], "megabytes", "{:.1f}"),
    )
    for number, (axes, (values, label, form)) in enumerate(zip(figure.subplots(1, 2), sides, strict=True)):
        bars = axes.barh(places, values, color=COLOURS[number], hatch=HATCHES[number], edgecolor="white")
        axes.bar_label(bars, labels=[form.format(value) for value in values], fontsize=NUMBER_SIZE, padding=2)
        axes.set_yticks(list(places), names if number == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.margins(x=0.22)
        axes.set_xlabel(label if number == 0 else "megabytes read and written")
        axes.spines[["top", "right"]].set_visible(False)
        if number:
            axes.plot([guess], [1.5], "D", color="black", markersize=7, label="your prediction")
            axes.legend(fontsize=NUMBER_SIZE, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    return figure


def crossing(sent: Sequence[float], ends: Sequence[int], seam: int | None, *, caption: str = "") -> Figure:
    """Plot the kilobytes that cross a cut after each node; dots mark the ends of blocks, and a line marks the chosen cut.

    sent: the bytes for a cut after 1, 2, 3, ... nodes. ends, seam: cuts, as the number of nodes in part 1.
    """
    figure = new_figure("What crosses a cut", caption, width=8.2, height=3.6)
    axes = figure.add_subplot()
    axes.step(
        range(1, len(sent) + 1), [size / 1e3 for size in sent], where="mid", color=COLOURS[0], linewidth=1, label="any cut"
    )
    axes.plot(ends, [sent[end - 1] / 1e3 for end in ends], "o", color=COLOURS[1], label="cut between two blocks")
    if seam is not None:
        axes.axvline(seam, color=DARK, linestyle="--", label="your seam")
    axes.set(xlabel="nodes in part 1", ylabel="kilobytes", ylim=(0, 1.1 * max(sent) / 1e3))
    axes.legend(fontsize=NUMBER_SIZE, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure
