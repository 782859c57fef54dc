"""Lab 07: its examples are right, and the graph of gptj-tiny and the figures have the fusion groups and the cuts into parts
that the lab names.
"""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from labkit.answers.lab07.cutting import best_seam, crossing_tensors
from labkit.answers.lab07.fusing import bytes_saved, fusible_group
from labkit.answers.lab07.pipelining import pipelined_rate
from labkit.answers.lab07.wiring import part_maps
from labkit.errors import InvalidRequest, NotAvailable
from labkit.exercises.lab07 import compilers, figures, real_graphs, served_parts
from labkit.exercises.lab07.small_graphs import POINTWISE, Node, gptj
from labkit.exercises.lab07.wiring import PartNames, check_maps, follow
from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_cases
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED, PASSED
from labkit.serving.repository.graph_models import GraphServing
from labkit.serving.server.install import find_server

needs_graphs = pytest.mark.skipif(bool(real_graphs.what_is_missing()), reason=real_graphs.what_is_missing())

EXAMPLE: list[Node] = [
    ("a", "MatMul", ["x", "w"]),
    ("b", "Add", ["a", "bias"]),
    ("c", "Mul", ["b", "b"]),
    ("d", "Add", ["b", "c"]),
    ("e", "MatMul", ["d", "v"]),
]
PAIR: list[PartNames] = [("a", ["x"], ["y"]), ("b", ["x"], ["y"])]


def test_the_examples_of_the_lab() -> None:
    assert fusible_group(EXAMPLE, "d", list(POINTWISE), ["e"]) == ["b", "c", "d"]
    more: list[Node] = [*EXAMPLE, ("f", "MatMul", ["b", "v"])]
    assert fusible_group(more, "d", list(POINTWISE), ["e", "f"]) == ["c", "d"]
    sizes = {"a": 100, "b": 100, "c": 100, "d": 100, "bias": 4}
    assert bytes_saved(EXAMPLE, ["b", "c", "d"], sizes, ["e"]) == 500
    chain: list[Node] = [("a", "Add", ["x"]), ("b", "Add", ["a"]), ("c", "Add", ["b"]), ("d", "Add", ["a", "c"])]
    assert crossing_tensors(chain, 2) == ["a", "b"]
    blocks: list[Node] = [(name, "MatMul", [before]) for name, before in ("ax", "ba", "cb", "dc", "ed")]
    assert best_seam(blocks, {"a": 3, "b": 3, "c": 3, "d": 4, "e": 3}, dict.fromkeys("abcde", 4), 4) == 3
    assert part_maps(PAIR) == {"a": ({"x": "x"}, {"y": "_seam_1"}), "b": ({"x": "_seam_1"}, {"y": "y"})}
    assert [round(pipelined_rate([0.004, 0.006], 0.012, users, 2)) for users in (1, 10)] == [83, 167]


def test_between_blocks_of_gptj_only_the_hidden_state_crosses() -> None:
    nodes = gptj(3)
    crossing = [crossing_tensors(nodes, first) for first in range(1, len(nodes))]
    assert [names for names in crossing if len(names) == 1 and names[0].startswith("hidden_")] == [
        ["hidden_0"],
        ["hidden_1"],
        ["hidden_2"],
        ["hidden_3"],
    ]
    assert all(any(name.startswith("hidden_") for name in names) for names in crossing[:-2])


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        (None, "return a dictionary"),
        ({"a": ({"x": "x"}, {"y": "s"})}, "no step for b"),
        ({"a": ({"x": "x"}, {"y": "s"}), "b": {"x": "s"}}, "for b your function returns"),
        ({"a": ({"z": "x"}, {"y": "s"}), "b": ({"x": "s"}, {"y": "y"})}, "has the key z, but a has x"),
        ({"a": ({}, {"y": "s"}), "b": ({"x": "s"}, {"y": "y"})}, "input_map of a has no wire for x"),
        (part_maps(PAIR) | {"c": ({}, {})}, "step for c, which is no part"),
    ],
)
def test_maps_of_a_wrong_form_are_named(maps: Any, said: str) -> None:
    assert said in check_maps(maps, PAIR)


@pytest.mark.parametrize(
    ("maps", "said"),
    [
        ({"a": ({"x": "t"}, {"y": "s"}), "b": ({"x": "s"}, {"y": "y"})}, "a reads the wire t"),
        ({"a": ({"x": "x"}, {"y": "x"}), "b": ({"x": "x"}, {"y": "y"})}, "a writes the wire x, but this wire already carries"),
        ({"a": ({"x": "x"}, {"y": "s"}), "b": ({"x": "s"}, {"y": "z"})}, "no part writes y"),
    ],
)
def test_wires_that_lead_nowhere_are_named(maps: Any, said: str) -> None:
    assert said in follow(maps, PAIR)["fault"]


def test_names_of_inner_wires_are_free() -> None:
    other = {"a": ({"x": "x"}, {"y": "anything"}), "b": ({"x": "anything"}, {"y": "y"})}
    assert follow(other, PAIR) == follow(part_maps(PAIR), PAIR)
    assert follow(other, PAIR)["inputs"]["b.x"] == "a's y"


def test_a_machine_without_graphs_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(name: str) -> Any:
        raise NotAvailable(f"the package {name} is not installed")

    monkeypatch.setattr(real_graphs, "graph_package", missing)
    assert not real_graphs.ready()
    assert not served_parts.ready()
    assert capsys.readouterr().out.splitlines() == ["not measured here: the package onnx is not installed"] * 2


@pytest.fixture(scope="module")
def graph() -> real_graphs.StepGraph:
    return real_graphs.step_graph("none", 16)


@needs_graphs
def test_the_graph_has_the_bytes_of_its_tensors(graph: real_graphs.StepGraph) -> None:
    hidden = graph.nodes[real_graphs.block_begins(graph.nodes)[0] - 1]
    assert hidden[1] == "Add"
    assert graph.sizes[hidden[0]] == 16 * 256 * 4
    assert graph.sizes["logits"] == 8192 * 4
    assert graph.sizes["transformer.h.0.mlp.fc_in.weight"] == 256 * 1024 * 4
    assert graph.sizes["input_ids"] == 16 * 8
    assert all(graph.sizes[name] >= 0 for _, _, reads in graph.nodes for name in reads)
    assert sum(graph.work.values()) > 0
    weights = {name for name in graph.sizes if name.endswith(".weight")}
    assert graph.kernels >= len(graph.nodes)
    products = sum(graph.sizes[name] for _, kind, reads in graph.nodes if kind == "MatMul" for name in reads if name in weights)
    assert products <= graph.weight_bytes <= graph.moved_bytes
    assert [node[1] for node in real_graphs.head(graph.nodes)] == ["MatMul", "Add"]


@needs_graphs
def test_groups_are_the_fusions_of_the_lecture(graph: real_graphs.StepGraph) -> None:
    groups = real_graphs.groups_of(graph, fusible_group)
    kinds = {name: kind for name, kind, _ in graph.nodes}
    found = [tuple(kinds[name] for name in group) for group in groups]
    assert found.count(("Add", "Mul", "Pow", "Mul", "Add", "Mul", "Tanh", "Add", "Mul")) == 8  # the bias and GELU
    assert sum(group[-3:] == ("Div", "Mul", "Add") for group in found) == 9  # the last operations of a layer norm
    every = [name for group in groups for name in group]
    assert len(set(every)) == len(every)


@needs_graphs
def test_one_tensor_crosses_between_two_blocks(graph: real_graphs.StepGraph) -> None:
    values = real_graphs.of_values(graph)
    begins = real_graphs.block_begins(values.nodes)
    assert len(begins) == 7
    for begin in begins:
        (crossed,) = crossing_tensors(values.nodes, begin)
        assert crossed == values.nodes[begin - 1][0]
    assert len(crossing_tensors(values.nodes, begins[0] - 2)) == 3


@needs_graphs
def test_the_drawing_has_a_box_for_each_kernel(graph: real_graphs.StepGraph) -> None:
    fused = real_graphs.step_graph("all", 16)
    groups = real_graphs.groups_of(graph, fusible_group)
    figure = figures.before_and_after(graph, fused, groups)
    left, right = ([text.get_text() for text in axes.texts if text.get_text()] for axes in figure.axes)
    assert left.count("ReduceMean") == 2
    assert left.count("Tanh") == 1
    assert "LayerNormalization" in right
    assert len(right) < len(left) / 2
    boxes = [text.get_bbox_patch() for text in figure.axes[0].texts if text.get_text()]
    assert sum(to_hex(box.get_facecolor()) != figures.SINGLE.lower() for box in boxes) == 5 + 9  # boxes of the norm and of GELU
    assert figures.kernels_left(figures.norm_and_mlp(graph), groups) == len(left) - 4 - 8
    new = {to_hex(text.get_bbox_patch().get_facecolor()) for text in figure.axes[1].texts if "Norm" in text.get_text()}
    assert new == {figures.NEW_COLOUR.lower()}
    assert figures.NEW_COLOUR not in figures.GROUP_COLOURS
    kinds = figures.in_operators(graph, groups)
    assert kinds["Mul Mul Add"] == kinds["Mul Mul Sub"] == 16  # the rotary embedding of queries and keys in 8 blocks
    assert sum(kinds.values()) == len(groups)


def test_the_figures_show_their_numbers() -> None:
    shown = figures.kernels_and_bytes({"one": (10, 2_000_000), "two": (4, 1_000_000)}, 1.5, title="", caption="")
    widths = [[bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)] for axes in shown.axes]
    assert widths == [[10, 4], [2.0, 1.0]]
    cut = figures.crossing([4000.0, 12000.0, 4000.0], [1], 3)
    assert cut.axes[0].lines[0].get_ydata().tolist() == [4.0, 12.0, 4.0]
    assert cut.axes[0].lines[1].get_xydata().tolist() == [[1.0, 4.0]]


def test_ways_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(compilers, "_graphs", lambda: None)
    monkeypatch.setattr(compilers, "WAYS", {"eager": ("plain", "fp32"), "labkit": ("labkit", "fp32"), "no": ("plain", "int8")})
    found = compilers.measure(seconds=0.5)
    assert list(found["rows"]) == ["eager", "labkit"]
    assert [row["error"] for row in found["rows"].values()] == [0.0, 0.0]
    assert all(0 < row["low"] <= row["step"] <= row["high"] for row in found["rows"].values())
    assert found["missing"]["no"].startswith("not measured here: plain runs fp32")
    compilers.tell(found)
    assert "no: not measured here" in capsys.readouterr().out
    assert compilers.table(found)["labkit"][1] == found["rows"]["labkit"]["step"]


def test_gains_compare_rounds() -> None:
    measured = {"rates": {"2": {"whole": [10.0, 20.0, 10.0], "parts": [15.0, 20.0, 13.0]}}, "disturbed": ""}
    assert served_parts.gains(measured) == {2: (1.0, 1.3, 1.5)}


@needs_graphs
@pytest.mark.long
@pytest.mark.skipif(find_server() is None, reason="not measured here: no tritonserver")
def test_both_models_generate_the_same_and_are_measured() -> None:
    served = served_parts.ServedParts(part_maps)
    try:
        assert served.parts == served_parts.parts_of(real_graphs.exported(2), GraphServing(served_parts.PARTS))
        made = served.greedy([5, 6, 7], 8)
        assert made["whole"] == made["parts"]
        assert len(made["whole"]) == 8
        alone = served.alone(requests=5, rounds=1)
        assert [len(one["seconds"]) for one in alone["models"].values()] == [1, 2]
        assert all(sum(one["seconds"]) < 2 * one["latency"] for one in alone["models"].values())
        assert isinstance(alone["disturbed"], str)
        served.stop()  # a cell that is run again finds a server
        loads = served.under_load([2], latency=0.001, rounds=2)
        assert [len(rates) for rates in loads["rates"]["2"].values()] == [2, 2]
    finally:
        served.stop()
    with pytest.raises(InvalidRequest, match=r"run check\(part_maps\)"):
        served_parts.ServedParts(lambda parts: {})


# What beginners write, and the messages that they get ---------------------------------------------------------------------
def told(name: str, function: Any) -> str:
    exercise = find(f"lab07.{name}")
    verdict = judge(answer_to(exercise), {seed: run_cases(function, exercise, seed) for seed in SEEDS})
    assert verdict.verdict in (FAILED, PASSED)
    return verdict.message if verdict.verdict == FAILED else ""


def any_group(nodes: Any, last: str, pointwise: Any, results: Any) -> Any:
    group = {last}
    for name, kind, _ in reversed(nodes):
        if kind in pointwise and all(other in group for other, _, reads in nodes if name in reads):
            group.add(name)
    return [name for name, _, _ in nodes if name in group]


def twice_each(nodes: Any, last: str, pointwise: Any, results: Any) -> Any:
    return [name for name in fusible_group(nodes, last, pointwise, results) for _ in range(2)]


def inner_twice(nodes: Any, group: Any, sizes: Any, results: Any) -> int:
    kept = {name for name in group for one, _, reads in nodes if name in reads and one not in group}
    return sum(2 * sizes[name] for name in group if name not in kept and name not in results)


def inner_by_reader(nodes: Any, group: Any, sizes: Any, results: Any) -> int:
    kept = {name for name in group for one, _, reads in nodes if name in reads and one not in group}
    inner = [name for name in group if name not in kept and name not in results]
    return sum(sizes[name] * (1 + sum(name in reads for _, _, reads in nodes)) for name in inner)


def in_reading_order(nodes: Any, first: int) -> list[str]:
    made = {name for name, _, _ in nodes[:first]}
    return list(dict.fromkeys(name for _, _, reads in nodes[first:] for name in reads if name in made))


def every_reading(nodes: Any, first: int) -> list[str]:
    made = {name for name, _, _ in nodes[:first]}
    return [name for _, _, reads in nodes[first:] for name in reads if name in made]


def all_that_is_read(nodes: Any, first: int) -> list[str]:
    return [name for _, _, reads in nodes[first:] for name in reads]


def fastest_step(table: Any, steps: int, most: float) -> Any:
    return min((name for name in table if table[name][2] <= most), key=lambda name: table[name][1])


def choosing_first(table: Any, steps: int, most: float) -> Any:
    best = min(table, key=lambda name: table[name][0] + steps * table[name][1])
    return best if table[best][2] <= most else None


@pytest.mark.parametrize(
    ("name", "function", "said"),
    [
        ("fusible_group", any_group, "results of the graph, even if no node reads them"),
        ("fusible_group", lambda *given: [*fusible_group(*given), "weight_in"], "weight_in, which is not a node"),
        ("fusible_group", twice_each, "more than once"),
        ("fusible_group", lambda nodes, last, *rest: [last], "its operator is pointwise, and all of its readers are in"),
        ("bytes_saved", inner_twice, "several nodes of the group may read it"),
        ("bytes_saved", inner_by_reader, "You count only the tensors that stay in registers"),
        ("crossing_tensors", in_reading_order, "in the order in which part 2 reads them"),
        ("crossing_tensors", every_reading, "once is enough. Second: Your tensors are in the order in which part 2"),
        ("crossing_tensors", all_that_is_read, "which no node makes"),
        ("crossing_tensors", lambda nodes, first: [nodes[0][0]], "which no node of part 2 reads"),
        ("crossing_tensors", lambda nodes, first: [], "lacks"),
        ("best_seam", lambda nodes, *rest: 3, "your cut sends"),
        ("best_seam", lambda nodes, *rest: -1, "each part must have at least one"),
        ("pipelined_rate", lambda s, latency, users, cores: min(users / latency, 1 / max(s), cores / max(s)), "too high"),
        (
            "pipelined_rate",
            lambda s, latency, users, cores: min(users / max(s), 1 / max(s), cores / sum(s)),
            "takes the latency",
        ),
        (
            "pipelined_rate",
            lambda s, latency, users, cores: min(users / latency, 1 / max(s), cores / latency),
            "by the latency",
        ),
        ("pipelined_rate", lambda s, latency, users, cores: min(users / latency, 1 / min(s), cores / sum(s)), "fastest part"),
        (
            "choose_compiler",
            fastest_step,
            "The compile time is missing from your sum; for a few steps it decides. Second: If no way",
        ),
        ("choose_compiler", choosing_first, "only then test its error"),
        ("choose_compiler", lambda table, steps, most: min(table), "you choose"),
    ],
)
def test_wrong_answers_of_beginners_are_explained(name: str, function: Any, said: str) -> None:
    assert said in told(name, function)
