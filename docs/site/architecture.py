"""Draws the packages of labkit and the imports between them, read from the code, as an SVG picture."""

from __future__ import annotations

import ast
import html
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

from docs.site import ROOT

DRAWING = ROOT / "docs" / "architecture.svg"
GROUND = "single files"
"""The name of the box for the modules directly in `labkit/`, such as shapes, precisions, errors and files."""
WIDTH, BOX, HEIGHT, STEP, MARGIN = 960, 118, 34, 76, 16
"""The sizes in pixels: the drawing's width, a box's width and height, the distance between two floors, and the margin."""
GAP = 0.35
"""The width of a gap through which an arrow crosses a floor; a box has width 1."""
KINDS = {
    "the course": ("exercises", "answers", "grading", "lab", "gradebook", "course", "session"),
    "serving and comparing": ("serving", "bench"),
    "the engine": ("compress", "planning", "graphs", "parallel", "engine", "model", "ops", "native", "checkpoints", "builtin"),
}
FILLS = {"the course": "#fff3d6", "serving and comparing": "#e3f4ec", "the engine": "#e1eefb", "used by all": "#f1f1f1"}

Graph = dict[str, set[str]]


def import_graph(root: Path = ROOT) -> Graph:
    """Map each package of labkit to the packages that its files import, also inside functions.

    The modules directly in `labkit/` are one node of the graph, `GROUND`.
    """
    packages = {path.parent.name for path in (root / "labkit").glob("*/__init__.py")}
    graph: Graph = {package: set() for package in (*sorted(packages), GROUND)}
    for file in sorted((root / "labkit").rglob("*.py")):
        parts = file.relative_to(root / "labkit").parts
        if len(parts) > 1:
            found = set(_imported(file, packages))
            graph[parts[0]] |= found - {parts[0]}
    return graph


def _imported(file: Path, packages: set[str]) -> Iterator[str]:
    """Yield the packages of labkit that a file imports.

    `import labkit` alone counts as an import of the engine, because `labkit` loads the engine on first use.
    """
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{each.name}" for each in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "labkit":
                part = rest.partition(".")[0]
                yield part if part in packages else GROUND if rest else "engine"


def reduced(graph: Graph) -> Graph:
    """The graph without the arrows that follow from other arrows: if a uses b and b uses c, the arrow a -> c is left out."""
    reach = {node: _reached(graph, node) for node in graph}
    return {node: {one for one in uses if not any(one in reach[other] for other in uses)} for node, uses in graph.items()}


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    todo = list(graph[start])
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += graph[node]
    return found


def floors_of(graph: Graph) -> dict[str, int]:
    """The number of the floor on which each package stands: one floor above the highest package that it uses."""
    found: dict[str, int] = {}
    for node in TopologicalSorter(graph).static_order():
        found[node] = 1 + max((found[other] for other in graph[node]), default=-1)
    return found


def paths(graph: Graph) -> Iterator[list[str]]:
    """Yield each arrow as the list of nodes through which it is drawn.

    On each floor between its two ends, an arrow passes through a gap of its own, which is a node named "from>to>floor".
    """
    height = floors_of(graph)
    for node, uses in graph.items():
        for other in sorted(uses):
            gaps = [f"{node}>{other}>{floor}" for floor in range(height[node] - 1, height[other], -1)]
            yield [node, *gaps, other]


def places(graph: Graph) -> dict[str, tuple[float, float]]:
    """For each box, and each gap through which an arrow passes, the middle of its upper edge as (x, y) in pixels."""
    height = floors_of(graph)
    below: dict[str, list[str]] = {node: [] for node in graph}
    for path in paths(graph):
        for one, next_one in pairwise(path):
            below.setdefault(one, []).append(next_one)
            height.setdefault(one, int(one.rpartition(">")[2] or 0) if ">" in one else 0)
    top = max(height.values())
    found: dict[str, tuple[float, float]] = {}
    for floor in range(top + 1):  # from the ground up, so that each box can be placed above the boxes that it uses
        row = [node for node in height if height[node] == floor]
        row.sort(key=lambda node: (_mean([found[other][0] for other in below.get(node, ())]), node))
        widths = [GAP if ">" in node else 1.0 for node in row]
        for index, node in enumerate(row):
            middle = (sum(widths[:index]) + widths[index] / 2) / sum(widths)
            found[node] = (WIDTH * middle, MARGIN + (top - floor) * STEP)
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else WIDTH / 2


def drawing(root: Path = ROOT) -> str:
    """The SVG picture. It has a title and a description for people who cannot see it."""
    graph = reduced(import_graph(root))
    where = places(graph)
    height = int(max(y for _, y in where.values())) + STEP + MARGIN
    said = "; ".join(f"{node} uses {', '.join(sorted(uses))}" for node, uses in graph.items() if uses)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif">',
        f"<title>The packages of labkit and what they import</title>\n<desc>{html.escape(said)}.</desc>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#444"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    parts += [_arrow([where[node] for node in path]) for path in paths(graph)]
    parts += [_box(node, *where[node]) for node in graph]
    parts += [_legend(index, kind, height) for index, kind in enumerate(FILLS)]
    return "\n".join([*parts, "</svg>\n"])


def _arrow(stops: list[tuple[float, float]]) -> str:
    """A curve from the lower edge of the first box, through the gaps, to the upper edge of the last box."""
    (x, y), last = stops[0], stops[-1]
    y += HEIGHT
    curve = f"M{x:.0f} {y:.0f}"
    for stop in stops[1:]:
        to_x, to_y = stop
        bend = (to_y - y) / 2
        curve += f"C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
        x, y = to_x, to_y + HEIGHT
        curve += "" if stop == last else f"V{y:.0f}"
    return f'<path d="{curve}" fill="none" stroke="#444" stroke-opacity=".6" marker-end="url(#tip)"/>'


def _box(node: str, x: float, y: float) -> str:
    kind = next((kind for kind, names in KINDS.items() if node in names), "used by all")
    return (
        f'<rect x="{x - BOX / 2:.0f}" y="{y:.0f}" width="{BOX}" height="{HEIGHT}" rx="5" fill="{FILLS[kind]}" stroke="#444"/>'
        f'<text x="{x:.0f}" y="{y + HEIGHT / 2 + 5:.0f}" text-anchor="middle" font-size="15" fill="#111">{node}</text>'
    )


def _legend(index: int, kind: str, height: int) -> str:
    x, y = MARGIN + index * 200, height - MARGIN
    return (
        f'<rect x="{x}" y="{y - 12}" width="16" height="14" fill="{FILLS[kind]}" stroke="#444"/>'
        f'<text x="{x + 24}" y="{y}" font-size="13" fill="#111">{kind}</text>'
    )
