"""Compares graph compilers with each other and with labkit's engine.

The same graph runs in torch operation by operation, under `torch.compile`, and in ONNX Runtime with and without optimisations.

All engines take turns in one benchmark. The record also says what each compiler did: the number of nodes that it fused, the
kernels and bytes of a step, the graph breaks, and the compile time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch

from labkit.bench.peers.onnx_runtime import kept_export
from labkit.bench.run import run_bench
from labkit.bench.settings import BenchSettings
from labkit.checkpoints import open_checkpoint
from labkit.errors import InvalidRequest
from labkit.graphs.compiled import examine, plain_model
from labkit.graphs.levels import LevelFound, compare_levels
from labkit.graphs.session import PROVIDERS, missing_provider
from labkit.measure import Record

COMPILERS = ("plain", "plain-compiled", "onnxruntime-none", "onnxruntime")
"""The engines that are compared with labkit. The first one runs the graph operation by operation."""


def compare_compilers(settings: BenchSettings, progress: Callable[[str], None] = lambda message: None) -> Record:
    """Run the benchmark with `COMPILERS` as peers, and describe the graphs that the compilers made.

    `settings.against` is ignored. The record has the same rows and ratios as the record of `run_bench`. Its `extra` also holds
    four entries. `levels` gives the operators, fusions, kernels and bytes of a decode step at each level of ONNX Runtime.
    `torch_compile` gives the graphs, breaks, kernels and seconds of `torch.compile`. `break_even_steps` is the number of decode
    steps after which the faster steps have made up for the compile time, or None if the compiled step is not faster.
    `providers` says why a provider of ONNX Runtime is not measured. Compilers that cannot run on this machine are listed in
    `not_measured`. Raises the same errors as `run_bench`.
    """
    if settings.device not in (None, "cpu"):
        raise InvalidRequest(f"device is {settings.device!r}; the comparison of graph compilers runs on the cpu")
    chosen = replace(settings, against=COMPILERS, device="cpu")
    checkpoint = open_checkpoint(settings.model, seed=settings.seed)
    record = run_bench(chosen, progress, checkpoint)
    progress("reading the optimised graphs back")
    past, threads = settings.prompt_tokens, torch.get_num_threads()
    exported = kept_export(checkpoint, "fp32")
    levels = {batch: compare_levels(exported, batch=batch, past=past, threads=threads) for batch in settings.batches}
    progress("compiling a step to count its kernels")
    compiled = examine(plain_model(checkpoint, "fp32", torch.device("cpu")), batch=settings.batches[0], past=past)
    extra: dict[str, Any] = {
        "levels": [
            {"batch": batch, **asdict(level), "nodes": level.nodes} for batch, found in levels.items() for level in found
        ],
        "torch_compile": asdict(compiled),
        "break_even_steps": break_even_steps(record.rows, levels[settings.batches[0]], compiled.compile_seconds),
        "providers": {name: missing_provider(name) for name in PROVIDERS},
    }
    return replace(record, kind="compilers", extra=record.extra | extra)


def break_even_steps(rows: list[dict[str, Any]], levels: list[LevelFound], compile_seconds: float) -> dict[str, float | None]:
    """Return, for each compiler, after how many decode steps the faster steps have made up for the compile time.

    This number is the compile time divided by the time that each compiled step saves, at the first batch size. It is None if a
    compiled step saves no time. Engines without a row are left out.
    """
    step: dict[str, float] = {}
    for row in rows:
        if row["precision"] == "fp32":
            step.setdefault(row["engine"], row["decode_ms_per_token"] / 1e3)
    load = {level.level: level.load_seconds for level in levels}
    pairs = {
        "plain-compiled": ("plain", compile_seconds),
        "onnxruntime": ("onnxruntime-none", max(0.0, load["all"] - load["none"])),
    }
    found: dict[str, float | None] = {}
    for name, (start, seconds) in pairs.items():
        if name in step and start in step:
            saved = step[start] - step[name]
            found[name] = seconds / saved if saved > 0 else None
    return found
