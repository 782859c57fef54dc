"""Compares graph compilers: labkit's exported graph in ONNX Runtime and under torch.compile, and labkit's engine.

    python -m tests.benchmarks.graphs [--model gptj-tiny] [--batch 1,8] [--seconds 20] [--rounds 5] [--save FILE] [--plot FILE]

The engines take turns, in fp32 and in int8. The record also says how the compilers changed the graph. For each level of ONNX
Runtime, it lists the operators, fusions, kernels and bytes of a decode step. For torch.compile, it lists graph breaks and
kernels. It also has the number of steps after which faster steps have made up for the compile time. If the model is gptj-tiny,
the quality of ONNX Runtime's INT8 is measured on held-out text.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from labkit.bench.compilers import compare_compilers
from labkit.bench.peers.onnx_runtime import kept_export
from labkit.bench.settings import BenchSettings
from labkit.checkpoints import open_checkpoint
from labkit.compress.calibration import HELD_OUT
from labkit.engine import load
from labkit.graphs.fused_nodes import Fusion
from labkit.graphs.levels import LevelFound, StepWork
from labkit.graphs.plots import levels_plot
from labkit.graphs.runner import GraphModel
from labkit.graphs.verify import graph_quality
from labkit.measure import Record

LETTERS = 6_000
"""The quality of INT8 is measured on this many letters of the held-out text."""


def quality(model: str) -> dict[str, Any]:
    """Return how far the predictions of ONNX Runtime's INT8 are from the engine's predictions in fp32, on held-out text."""
    with load(model, dtype="fp32", device="cpu") as engine:
        exported, small = (kept_export(open_checkpoint(model), precision) for precision in ("fp32", "int8"))
        found = graph_quality(GraphModel(small), engine, HELD_OUT.read_text("utf-8")[:LETTERS])
        return {
            "text": f"the first {LETTERS:,} letters of {HELD_OUT.name}",
            "bytes": small.byte_count,
            "bytes_fp32": exported.byte_count,
            **found.to_dict(),
        }


def level_of(row: dict[str, Any]) -> LevelFound:
    """Make the description of an optimisation level from its row in the record."""
    joined = tuple(Fusion(one["kind"], tuple(one["replaced"]), one["count"]) for one in row["fusions"])
    return LevelFound(row["level"], row["operators"], joined, StepWork(**row["work"]), row["load_seconds"])


def print_tables(record: Record) -> None:
    """Print the times of all engines, and the changes that the compilers made to the graph."""
    for row in record.rows:
        times = f"prefill {row['prefill_ms']:8.2f} ms, decode {row['decode_ms_per_token']:7.3f} ms"
        print(f"{row['engine']:18} {row['precision']:5} batch {row['batch']}: {times}, built in {row['build_seconds']:.1f} s")
    for row in record.extra["levels"]:
        work = row["work"]
        print(
            f"level {row['level']:9} batch {row['batch']}: {row['nodes']} nodes, {work['kernels']} kernels, "
            f"{work['moved_bytes'] / 1e6:.2f} MB moved, {work['weight_bytes'] / 1e6:.2f} MB of it weights, "
            f"loaded in {row['load_seconds']:.2f} s"
        )
    full = next(row for row in record.extra["levels"] if row["level"] == "all")
    for one in full["fusions"]:
        print(f"{one['count']:4} x {one['kind']}: {' '.join(one['replaced'])}")
    print("torch.compile:", record.extra["torch_compile"])
    print("break-even after steps:", record.extra["break_even_steps"])
    for row in record.extra["not_measured"]:
        print(f"{row['engine']}: {row['why']}")


def main() -> None:
    """Run the benchmark. The last line of the output is JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="gptj-tiny")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    batches = tuple(int(batch) for batch in asked.batch.split(","))
    settings = BenchSettings(
        model=asked.model, batches=batches, seconds=asked.seconds, rounds=asked.rounds, precisions=("fp32", "int8")
    )
    record = compare_compilers(settings, lambda message: print(message, file=sys.stderr))
    if asked.model == "gptj-tiny":
        record = replace(record, extra=record.extra | {"int8_quality": quality(asked.model)})
    print_tables(record)
    if asked.save:
        record.save(asked.save)
    if asked.plot:
        levels = [level_of(row) for row in record.extra["levels"] if row["batch"] == batches[0]]
        levels_plot(levels, f"{record.caption()}; batch {batches[0]}").savefig(asked.plot)
    print(json.dumps({"ratios": record.extra["ratios"], "break_even_steps": record.extra["break_even_steps"]}))


if __name__ == "__main__":
    main()
