"""Compares ONNX Runtime's optimisation levels: reads each optimised graph, and counts its kernels in a real decode step."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labkit.errors import InvalidRequest
from labkit.graphs.exported import ExportedModel, ExportedPart, read_graph
from labkit.graphs.fused_nodes import Fusion, fusions, operators
from labkit.graphs.runner import GraphPart
from labkit.graphs.session import LEVELS, SessionSettings, open_session

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that only change a tensor's shape. In ONNX Runtime, the result uses the input's memory, so no bytes are moved."""

PICKS = frozenset({"Gather", "GatherND", "Slice"})
"""Operators that read only as many values of their input as they write."""


@dataclass(frozen=True)
class StepWork:
    """The work of one step, as ONNX Runtime's profiler counts it.

    kernels: how many kernels ran. moved_bytes: the bytes that the kernels read (including weights) and wrote; `VIEWS` move
    nothing, and `PICKS` read as much as they write. weight_bytes: the bytes of weights in `moved_bytes`.
    """

    kernels: int
    moved_bytes: int
    weight_bytes: int

    def __add__(self, other: StepWork) -> StepWork:
        return StepWork(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class LevelFound:
    """The result of an optimisation level: how often each operator occurs, the fusions, and the work of a decode step.

    load_seconds: how long ONNX Runtime needed to read the graph, optimise it and prepare its weights.
    """

    level: str
    operators: dict[str, int]
    fusions: tuple[Fusion, ...]
    work: StepWork
    load_seconds: float

    @property
    def nodes(self) -> int:
        """The number of nodes in the optimised graph."""
        return sum(self.operators.values())


PAST = 64
"""The default number of cached tokens before a profiled step, if the context is long enough."""


def compare_levels(
    exported: ExportedModel, *, batch: int = 1, past: int | None = None, threads: int | None = 1
) -> list[LevelFound]:
    """Optimise every part of an export at each level, read the optimised graph, and profile one decode step.

    The step has one new token for each of `batch` sequences, after `past` cached tokens (`PAST` if left out). If there are
    several parts, each number is the sum over the parts. Raises `InvalidRequest` for an empty batch, an empty cache, or a cache
    that leaves no room in the context. Raises `NotAvailable` if onnx or onnxruntime is missing.
    """
    most = exported.config.context_length - 1
    cached = min(PAST, most) if past is None else past
    if batch < 1 or not 1 <= cached <= most:
        raise InvalidRequest(
            f"batch is {batch} and past is {cached}; batch must be at least 1, and past 1 to {most} cached tokens"
        )
    return [_at_level(exported, level, batch, cached, threads) for level in LEVELS]


def optimised_graph(part: ExportedPart, level: str) -> Any:
    """A part's graph after ONNX Runtime has optimised it at a level, as an `onnx.ModelProto` without weights."""
    with tempfile.TemporaryDirectory(prefix="labkit-graph-") as folder:
        place = Path(folder) / "optimised.onnx"
        open_session(part.path, SessionSettings(level, optimised=place))
        return read_graph(place)


def profile_step(part: ExportedPart, settings: SessionSettings, *, batch: int, past: int) -> StepWork:
    """Run one decode step of a part under ONNX Runtime's profiler, after a warm-up step."""
    with tempfile.TemporaryDirectory(prefix="labkit-graph-") as folder:
        session = open_session(
            part.path, SessionSettings(settings.level, settings.threads, settings.provider, profile=Path(folder) / "profile")
        )
        runner = GraphPart(session, part.tensors, settings.provider)
        entered = _example(part, batch)
        cache = runner.run(_example(part, batch, past), runner.empty_past(batch))[1]
        for _ in range(2):
            runner.run(entered, cache)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return _last_step(events)


def _at_level(exported: ExportedModel, level: str, batch: int, past: int, threads: int | None) -> LevelFound:
    counted: dict[str, int] = {}
    joined: dict[tuple[str, tuple[str, ...]], int] = {}
    work, load_seconds = StepWork(0, 0, 0), 0.0
    for part in exported.parts:
        before, after = read_graph(part.path), optimised_graph(part, level)
        for name, count in operators(after).items():
            counted[name] = counted.get(name, 0) + count
        for one in fusions(before, after):
            joined[one.kind, one.replaced] = joined.get((one.kind, one.replaced), 0) + one.count
        begin = time.perf_counter()
        open_session(part.path, SessionSettings(level, threads))
        load_seconds += time.perf_counter() - begin
        work += profile_step(part, SessionSettings(level, threads), batch=batch, past=past)
    found = tuple(Fusion(kind, names, count) for (kind, names), count in joined.items())
    return LevelFound(level, dict(sorted(counted.items())), found, work, load_seconds)


def _example(part: ExportedPart, batch: int, tokens: int = 1) -> Any:
    enters = part.tensors.enters
    sizes = {"batch": batch, "tokens": tokens}
    return np.ones([sizes.get(str(size), size) for size in enters.shape], enters.dtype)


def _last_step(events: list[dict[str, Any]]) -> StepWork:
    """The work of the last run in a profile."""
    runs = [event for event in events if event.get("name") == "model_run"]
    begin = max(int(run["ts"]) for run in runs)
    kernels = [
        event
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and int(event["ts"]) >= begin
    ]
    weights = other = 0
    for event in kernels:
        kind = event["args"]["op_name"]
        read, written, held = (int(event["args"].get(f"{name}_size") or 0) for name in ("activation", "output", "parameter"))
        if kind in PICKS:
            other += 2 * written
        elif kind not in VIEWS:
            other += read + written
            weights += held
    return StepWork(len(kernels), weights + other, weights)
