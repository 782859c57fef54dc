"""Compares the times of the CPU's kernels on the matrices of one block, for each format and number of rows, on one thread.

    python -m tests.benchmarks.cpu_products [--model gpt-j-405m-synthetic] [--rows 1,8,128] [--save FILE]

The seconds are CPU time of this thread, so other processes disturb them little. The smallest time of several rounds counts, and
the formats take turns. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from labkit.checkpoints import config_of
from labkit.measure import Record
from labkit.native.packed_weight import PackedWeight
from labkit.ops.kernels.linear_tune import linear_shapes
from labkit.weight_formats import FORMATS

ROUNDS = 12


def packed(kind: str, dense: torch.Tensor) -> PackedWeight:
    """Return the matrix `dense` in the format `kind`, packed for the CPU."""
    return PackedWeight(FORMATS[kind].quantize(dense) if kind in FORMATS else dense.bfloat16())


def seconds(weights: dict[str, PackedWeight], rows: int, num_in: int) -> dict[str, float]:
    """Return the CPU seconds of one matrix product with `rows` rows, for each format."""
    x, calls = torch.randn(rows, num_in), 20 if rows < 100 else 2
    least = dict.fromkeys(weights, float("inf"))
    for _ in range(ROUNDS):
        for kind, weight in weights.items():
            begun = time.process_time()
            for _ in range(calls):
                weight.multiply(x)
            least[kind] = min(least[kind], (time.process_time() - begun) / calls)
    return least


def main() -> None:
    """Measure, and print a line for each number of rows; the last line of the output is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt-j-405m-synthetic")
    parser.add_argument("--rows", default="1,8,128", help="rows (tokens), separated by commas")
    parser.add_argument("--kinds", default="bf16,sparse24,int8,w8a8,int4,fp8", help="formats, separated by commas; bf16 first")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kinds, shapes = asked.kinds.split(","), linear_shapes(config_of(asked.model))
    totals: dict[int, dict[str, float]] = {int(rows): dict.fromkeys(kinds, 0.0) for rows in asked.rows.split(",")}
    for name in ("qkv", "out_proj", "fc_in", "fc_out"):
        num_in, num_out = shapes[name]
        dense = torch.randn(num_out, num_in) * num_in**-0.5
        weights = {kind: packed(kind, dense) for kind in kinds}
        for rows, total in totals.items():
            for kind, taken in seconds(weights, rows, num_in).items():
                total[kind] += taken
    found = [{"rows": rows, "cpu_seconds": total} for rows, total in totals.items()]
    for rows, total in totals.items():
        times = ", ".join(f"{kind} {1e3 * taken:.3f} ms ({total[kinds[0]] / taken:.2f}x)" for kind, taken in total.items())
        print(f"{rows} rows: {times}")
    record = Record("cpu_products", {"model": asked.model, "threads": 1, "rounds": ROUNDS}, found)
    if asked.save:
        record.save(asked.save)
    print(json.dumps(record.to_dict()))


if __name__ == "__main__":
    main()
