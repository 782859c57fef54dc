"""Makes the graph of gptj-tiny in the exercises' form, with the bytes and microseconds that ONNX Runtime measures on this
machine.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from labkit.bench.peers.onnx_runtime import kept_export
from labkit.checkpoints import open_checkpoint
from labkit.errors import NotAvailable
from labkit.exercises.lab07.small_graphs import POINTWISE, Node
from labkit.graphs.export import export
from labkit.graphs.exported import ExportedModel, read_graph
from labkit.graphs.levels import PICKS, VIEWS, optimised_graph
from labkit.graphs.packages import graph_package
from labkit.graphs.runner import GraphPart
from labkit.graphs.session import SessionSettings, open_session
from labkit.measure import Contention, progress_bar
from labkit.measure.disturbed import disturbed_note

MODEL = "gptj-tiny"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOKENS = 128
"""The length of the prompt whose prefill is profiled."""
RUNS = 5
"""How many profiled runs there are. The time of a node is the median of these runs."""


def what_is_missing() -> str:
    """Why this machine cannot make graphs, as a sentence that begins with "not measured here"; "" if it can make graphs."""
    for package in PACKAGES:
        try:
            graph_package(package)
        except NotAvailable as error:
            return f"not measured here: {error}"
    return ""


def ready() -> bool:
    """Whether the packages of the extra `graphs` are installed. If not, prints a sentence that says so."""
    if words := what_is_missing():
        print(words)
    return not words


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for exports, which is deleted when this process ends."""
    return tempfile.TemporaryDirectory(prefix="labkit-lab07-")


@functools.cache
def exported(parts: int = 1) -> ExportedModel:
    """gptj-tiny exported as `parts` ONNX graphs. A single graph is kept in labkit's home; several graphs are deleted when this
    process ends.
    """
    checkpoint = open_checkpoint(MODEL)
    if parts == 1:
        return kept_export(checkpoint, "fp32")
    return export(checkpoint, Path(_own_folder().name) / f"{parts}_parts", parts=parts)


@dataclass(frozen=True)
class StepGraph:
    """A graph that has been run: its nodes, and what ONNX Runtime measured.

    sizes: the bytes of every tensor, including weights and inputs. work: the microseconds of each node. results: the names of
    the graph's results. kernels, moved_bytes: how many kernels ran, and how many bytes they read and wrote; views move nothing.
    weight_bytes: how many of the moved bytes were weights. disturbed: a note on how other programs disturbed the measurement of
    `work`, or "".
    """

    nodes: list[Node]
    sizes: dict[str, int]
    work: dict[str, int]
    results: list[str]
    kernels: int
    moved_bytes: int
    weight_bytes: int
    disturbed: str = ""


@functools.cache
def step_graph(level: str = "none", tokens: int = TOKENS) -> StepGraph:
    """Optimise the whole graph at a level, run a prefill of one prompt on one core, and return ONNX Runtime's measurements."""
    bar = progress_bar("exported, optimised and profiled", after=1.0)
    bar(0, 3)
    part = exported().parts[0]
    bar(1, 3)
    graph = read_graph(part.path) if level == "none" else optimised_graph(part, level)
    bar(2, 3)
    with Contention() as watch:
        runs = _profile(level, tokens)
    bar(3, 3)
    named = {node.name: _name(node) for node in graph.graph.node}
    sizes = {tensor.name: _bytes(tensor.dims, tensor.data_type) for tensor in graph.graph.initializer}
    took: dict[str, list[int]] = {}
    for run in runs:
        for event in run:
            took.setdefault(named.get(_node_of(event), ""), []).append(int(event["dur"]))
    for event in runs[-1]:
        if name := named.get(_node_of(event)):
            sizes[name] = int(event["args"].get("output_size") or 0)
    for value in graph.graph.input:
        numbers = {"batch": 1, "tokens": tokens, "past": 0}
        dims = [dim.dim_value or numbers.get(dim.dim_param, 0) for dim in value.type.tensor_type.shape.dim]
        sizes[value.name] = _bytes(dims, value.type.tensor_type.elem_type)
    work = {name: round(float(np.median(times))) for name, times in took.items() if name}
    nodes = [node for node in nodes_of(graph) if node[0] in work]
    results = [value.name for value in graph.graph.output]
    moved, weights = (sum(map(count, runs[-1])) for count in (_moved, _weights))
    note = disturbed_note([watch.words], "close other programs, restart the kernel and run the cells again")
    return StepGraph(nodes, sizes, work, results, len(runs[-1]), moved, weights, note)


def nodes_of(graph: Any) -> list[Node]:
    """The nodes of an `onnx.ModelProto` in the form that the exercises use: each node has the name of its first result."""
    first = {name: _name(node) for node in graph.graph.node for name in node.output}
    return [(_name(node), node.op_type, [first.get(name, name) for name in node.input if name]) for node in graph.graph.node]


def of_values(graph: StepGraph) -> StepGraph:
    """The graph without the nodes whose tensors depend only on lengths: shapes, positions, the mask and rotary angles.

    Each part of an export computes these tensors itself, so they never cross a seam.
    """
    inputs = {name for _, _, reads in graph.nodes for name in reads if name.startswith(("input_ids", "past_key_values"))}
    valued = set(inputs)
    for name, kind, reads in graph.nodes:
        if kind != "Shape" and valued & set(reads):
            valued.add(name)
    kept = [(name, kind, reads) for name, kind, reads in graph.nodes if name in valued]
    return replace(graph, nodes=kept)


def groups_of(graph: StepGraph, fusible_group: Callable[..., Any]) -> list[list[str]]:
    """Every group of at least two nodes that a learner's function finds; each node is in at most one group.

    The learner's function is called for one block at a time, once for each pointwise node that is not in a group yet. The last
    node comes first.
    """
    groups: list[list[str]] = []
    cuts = [0, *block_begins(graph.nodes), len(graph.nodes)]
    for begin, end in itertools.pairwise(cuts):
        block, later = graph.nodes[begin:end], {read for _, _, reads in graph.nodes[end:] for read in reads}
        results = [name for name, _, _ in block if name in later or name in graph.results]
        taken: set[str] = set()
        for name, kind, _ in reversed(block):
            if kind in POINTWISE and name not in taken:
                group = list(fusible_group(block, name, list(POINTWISE), results))
                taken |= set(group)
                if len(group) > 1:
                    groups.append(group)
    return groups


def head(nodes: Sequence[Node]) -> list[Node]:
    """The nodes of the head: its matrix product and its bias, without the last layer norm."""
    return list(nodes[next(place for place, node in enumerate(nodes) if "lm_head.weight" in node[2]) :])


def block_begins(nodes: Sequence[Node]) -> list[int]:
    """For each block except the first: the number of nodes before it. A block begins with the mean of its layer norm."""
    begins: list[int] = []
    for layer in itertools.count(1):
        product = f"transformer.h.{layer}.attn.q_proj.weight"
        place = next((place for place, node in enumerate(nodes) if product in node[2]), None)
        if place is None:
            return begins
        begins.append(max(at for at in range(1, place) if nodes[at][1] == "ReduceMean" and nodes[at - 1][1] == "Add"))
    return begins


def _profile(level: str, tokens: int) -> list[list[dict[str, Any]]]:
    """Profile `RUNS` prefills, after one that is not counted. Returns a list of the kernels for each run."""
    part = exported().parts[0]
    with tempfile.TemporaryDirectory(prefix="labkit-graph-") as folder:
        session = open_session(part.path, SessionSettings(level, threads=1, profile=Path(folder) / "profile"))
        runner = GraphPart(session, part.tensors)
        prompt = np.random.default_rng(0).integers(1, 1000, size=(1, tokens))
        for _ in range(1 + RUNS):
            runner.run(prompt, runner.empty_past(1))
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    begins = sorted(int(event["ts"]) for event in events if event.get("name") == "model_run")[1:]
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    ends = [*begins[1:], float("inf")]
    return [[event for event in kernels if begin <= int(event["ts"]) < end] for begin, end in zip(begins, ends, strict=True)]


def _node_of(event: dict[str, Any]) -> str:
    return str(event["name"]).removesuffix("_kernel_time")


def _moved(event: dict[str, Any]) -> int:
    """The bytes that a kernel reads and writes, counted as in `labkit.graphs.levels`."""
    kind = event["args"]["op_name"]
    read, written, held = (int(event["args"].get(f"{name}_size") or 0) for name in ("activation", "output", "parameter"))
    return 0 if kind in VIEWS else 2 * written if kind in PICKS else read + written + held


def _weights(event: dict[str, Any]) -> int:
    """The bytes of weights that a kernel reads."""
    return 0 if event["args"]["op_name"] in VIEWS | PICKS else int(event["args"].get("parameter_size") or 0)


def _name(node: Any) -> str:
    return str(next(name for name in node.output if name))


def _bytes(dims: Sequence[int], kind: int) -> int:
    itemsize: int = graph_package("onnx").helper.tensor_dtype_to_np_dtype(kind).itemsize
    return int(np.prod([*dims, itemsize]))
