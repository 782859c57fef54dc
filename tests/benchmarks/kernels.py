"""Compares the Triton kernels for layer norm, cache write and attention with the limits of the GPU, on the shapes of GPT-J 6B.

    python -m tests.benchmarks.kernels [--seconds 1] [--json] [--save FILE]

For each row of the result, the bytes that the operation must move (or twice its multiply-adds) are divided by the time of the
kernel. This rate is compared with the best rate of this GPU, measured in the same process. Calls run inside a CUDA graph, so
the time of launches is not measured. They run on more tensors than fit into the L2 cache, so their data are not in the cache.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit import ops
from labkit.measure import Record, time_call
from labkit.measure.ceilings import matrix_rate, read_rate

NUM_HEADS, HEAD_DIM, ROTARY_DIM, CONTEXT = 16, 256, 64, 2048
HIDDEN = NUM_HEADS * HEAD_DIM
DTYPE = torch.float16
COLD_BYTES = 512 * 2**20
"""The calls of one graph touch at least this many bytes: ten times the L2 cache of an H100."""
MOST_CALLS = 200
"""The maximum number of calls in one graph.

Kernels on one token reach this maximum. They take as long as a launch, so it does not matter if their data are in the cache.
"""


@dataclass(frozen=True)
class Case:
    """A kernel on one shape.

    `make` returns a call of the kernel on new tensors. `work` is the number of bytes that the kernel moves if `unit` is
    "bytes", or the number of its FLOPs if `unit` is "flops".
    """

    kernel: str
    shape: str
    unit: str
    work: int
    bytes_touched: int
    make: Callable[[], Callable[[], Any]]


def norm_case(tokens: int) -> Case:
    """Make the case for residual sum and layer norm, which read three hidden states per token and write two."""
    moved = 5 * tokens * HIDDEN * DTYPE.itemsize

    def make() -> Callable[[], Any]:
        residual, attention, mlp = half(3, tokens, HIDDEN).unbind(0)
        weight = half(HIDDEN)
        return lambda: ops.residual_layer_norm(residual, attention, mlp, weight, weight, 1e-5)

    return Case("residual_layer_norm", f"{tokens} tokens", "bytes", moved, moved, make)


def rotary_case(tokens: int) -> Case:
    """Make the case for rotary position embedding and cache write, which read and write query, key and value."""
    moved = 6 * tokens * HIDDEN * DTYPE.itemsize

    def make() -> Callable[[], Any]:
        qkv, (keys, values) = half(tokens, 3 * HIDDEN), half(2, tokens, NUM_HEADS, HEAD_DIM).unbind(0)
        positions = torch.arange(tokens, device="cuda") % CONTEXT
        sin, cos = ops.rotary_table(CONTEXT, ROTARY_DIM, qkv.device).unbind(0)
        mapping = torch.randperm(tokens, device="cuda")
        return lambda: ops.rotary_cache_write(qkv, positions, sin, cos, keys, values, mapping)

    return Case("rotary_cache_write", f"{tokens} tokens", "bytes", moved, moved, make)


def decode_case(batch: int, length: int) -> Case:
    """Make the case for decode attention, which reads every key and value of every sequence once. Slots are in random order."""
    moved = 2 * batch * length * HIDDEN * DTYPE.itemsize

    def make() -> Callable[[], Any]:
        keys, values, table = scattered(batch, length)
        query, lengths = half(batch, NUM_HEADS, HEAD_DIM), torch.full((batch,), length, dtype=torch.int32, device="cuda")
        return lambda: ops.decode_attention(query, keys, values, table, lengths)

    return Case("decode_attention", f"batch {batch}, {length} tokens", "bytes", moved, moved, make)


def prefill_case(batch: int, length: int) -> Case:
    """Make the case for prefill attention of whole prompts, which is two matrix products.

    Only the causal half of each product counts.
    """
    flops = 2 * 2 * batch * HIDDEN * length * (length + 1) // 2

    def make() -> Callable[[], Any]:
        keys, values, table = scattered(batch, length)
        query = half(batch * length, NUM_HEADS, HEAD_DIM)
        starts = torch.arange(0, batch * length + 1, length, dtype=torch.int32, device="cuda")
        lengths = torch.full((batch,), length, dtype=torch.int32, device="cuda")
        return lambda: ops.prefill_attention(query, keys, values, table, starts, lengths)

    return Case("prefill_attention", f"batch {batch}, {length} tokens", "flops", flops, COLD_BYTES, make)


def half(*shape: int) -> Tensor:
    """Return a tensor of random numbers in half precision on the GPU."""
    return torch.randn(*shape, device="cuda").to(DTYPE)


def scattered(batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys, values, and a slot table with slots in random order."""
    keys, values = half(2, batch * length, NUM_HEADS, HEAD_DIM).unbind(0)
    return keys, values, torch.randperm(batch * length, device="cuda").to(torch.int32).view(batch, length)


def seconds_a_call(case: Case, seconds: float) -> float:
    """Return the median time of one call in seconds, measured by replaying a graph of several calls."""
    calls = [case.make() for _ in range(min(max(-(-COLD_BYTES // case.bytes_touched), 2), MOST_CALLS))]
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        kept = [call() for call in calls]
    taken = time_call(graph.replay, device="cuda", max_seconds=seconds, max_runs=200, spread_target=0)
    assert len(kept) == len(calls)  # outputs are kept until here, so no call overwrites the output of another
    return taken.median / len(calls)


def cases() -> list[Case]:
    """Return all cases that are measured."""
    decode = [decode_case(batch, length) for batch, length in itertools.product((1, 8, 64), (512, 2048))]
    return [norm_case(1), norm_case(8192), rotary_case(8192), *decode, prefill_case(1, 1024), prefill_case(8, 1024)]


def main() -> int:
    """Measure all cases; the last line of stdout is the record as JSON."""
    parser = argparse.ArgumentParser(description="Bandwidth and FLOP rates of the Triton kernels.")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each case")
    parser.add_argument("--json", action="store_true", help="print the JSON line only")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured here: no GPU that torch can use")
        return 1
    device = torch.device("cuda")
    best = {"bytes": read_rate(device, options.seconds), "flops": matrix_rate(device, "fp16", options.seconds)}
    rows = []
    for case in cases():
        taken = seconds_a_call(case, options.seconds)
        rate, share = case.work / taken, case.work / taken / best[case.unit]
        rows.append(
            {"kernel": case.kernel, "shape": case.shape, "seconds": taken, f"{case.unit}_per_second": rate, "share": share}
        )
        if not options.json:
            print(
                f"{case.kernel:<20} {case.shape:<22} {1e6 * taken:>9.1f} us {rate:>10.3g} {case.unit}/s {share:>6.1%}",
                flush=True,
            )
        torch.cuda.empty_cache()
    shapes = {"num_heads": NUM_HEADS, "head_dim": HEAD_DIM, "dtype": "fp16"}
    record = Record("kernels", shapes, rows, extra={f"best_{unit}_per_second": rate for unit, rate in best.items()})
    if options.save:
        record.save(options.save)
    print(json.dumps(record.to_dict()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
