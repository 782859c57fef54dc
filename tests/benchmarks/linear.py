"""Compares the rates of the kernels for linear layers with the bandwidth of the GPU, for every format of weights.

The shapes are the shapes of GPT-J 6B.

    python -m tests.benchmarks.linear [--rows 1,8,64] [--kinds dense,int8] [--tune] [--compile] [--seconds 0.3] [--save FILE]

For each row of the result, the bytes that the layer must move (weight with scales, input, output) are divided by its time. This
rate is compared with the rate at which this GPU copies a large tensor, where reads and writes both count; the copy is measured
in the same process. Calls run inside a CUDA graph on more matrices than fit into the L2 cache. With `--tune`, the kernels are
measured, then every shape for which labkit's folder holds no choice of kernel is tuned, and then the kernels are measured
again; the record then holds the times of all candidates. `--compile` measures nothing: it compiles every candidate into
Triton's cache. Several processes that run `--compile` at the same time are faster than one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints import config_of
from labkit.home import home
from labkit.measure import Record, time_call
from labkit.ops.kernels import linear
from labkit.ops.kernels.autotune import Tuner
from labkit.ops.kernels.linear_kind_fp8 import FP8_ARCH
from labkit.ops.kernels.linear_tune import QUANTIZE, linear_shapes, tune
from labkit.ops.kernels.triton_runtime import arch_of
from tests.benchmarks.kernels import Case, seconds_a_call

MODEL = "gpt-j-6b-synthetic"
DTYPE = torch.float16
COPY_BYTES = 2 * 2**30


def copy_rate(seconds: float) -> float:
    """Return the bytes per second that a copy of a large tensor reads and writes."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    taken = time_call(lambda: target.copy_(source), device="cuda", max_seconds=seconds, max_runs=100, spread_target=0)
    return 2 * COPY_BYTES / min(taken.samples)


def layer_case(kind: str, name: str, num_in: int, num_out: int, rows: int) -> Case:
    """Make the case for one layer and `rows` tokens. The layer `fc_in` includes its GELU."""
    weight_bytes = byte_count(kind, num_in, num_out)
    moved = weight_bytes + rows * (num_in + num_out) * DTYPE.itemsize

    def make() -> Callable[[], Any]:
        weight = QUANTIZE[kind](torch.randn(num_out, num_in, device="cuda", dtype=DTYPE) * num_in**-0.5)
        x, bias = torch.randn(rows, num_in, device="cuda", dtype=DTYPE), torch.randn(num_out, device="cuda", dtype=DTYPE)
        return lambda: linear.linear_triton(x, weight, bias, gelu=name == "fc_in")

    return Case(kind, f"{name} {num_in}x{num_out}, {rows} rows", "bytes", moved, weight_bytes, make)


def byte_count(kind: str, num_in: int, num_out: int) -> int:
    """Return the number of bytes of a weight with its scales. No weight is made."""
    dense = torch.empty(num_out, num_in, dtype=DTYPE, device="meta")
    if kind == "dense":
        return dense.numel() * dense.element_size()
    groups = num_out * num_in // 32
    return num_out * num_in // 2 + 2 * groups if kind == "int4" else num_out * num_in + 4 * num_out


def tuned(kinds: list[str], rows: list[int]) -> dict[str, Any]:
    """Tune all shapes that labkit's tuning file has no choice for; return the contents of the file."""
    linear.tuner = Tuner(linear.SOURCES)
    tune_all(kinds, rows, print)
    devices: dict[str, Any] = json.loads((home() / "autotune.json").read_text())["devices"]
    return devices


def once(call: Callable[[], object]) -> float:
    """Run the call once and return zero. This function takes the place of a benchmark if kernels are only compiled."""
    call()
    return 0.0


def tune_all(kinds: list[str], rows: list[int], report: Callable[[str], None] = lambda line: None) -> None:
    """Make `linear.tuner` try every candidate of every shape."""
    for kind in kinds:
        tune(config_of(MODEL), rows, kind=kind, dtype=DTYPE, report=report)


def measure(case: Case, how: str, copy: float, seconds: float) -> dict[str, Any]:
    """Measure one case, print it, and return its row of the record."""
    taken = seconds_a_call(case, seconds)
    torch.cuda.empty_cache()
    share = case.work / taken / copy
    print(
        f"{case.kernel:<13} {case.shape:<32} {how:<8} {1e6 * taken:>9.1f} us {case.work / taken:>9.3g} B/s {share:>6.1%}",
        flush=True,
    )
    row = {"kind": case.kernel, "shape": case.shape, "choice": how, "seconds": taken}
    return row | {"bytes_per_second": case.work / taken, "share_of_copy": share}


def main() -> int:
    """Measure all cases; if there are any, the last line of stdout is the record as JSON."""
    parser = argparse.ArgumentParser(description="Bandwidth of the linear kernels.")
    parser.add_argument("--rows", default="1,8,64", help="rows (tokens), separated by commas")
    parser.add_argument("--kinds", default=",".join(QUANTIZE), help="kinds of weight, separated by commas")
    parser.add_argument("--tune", action="store_true", help="tune first and measure again")
    parser.add_argument("--compile", action="store_true", help="only compile what --tune tries")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each case; 0 measures none, and only tunes")
    parser.add_argument("--save", type=Path, help="write the record to this JSON file too")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured here: no GPU that torch can use")
        return 1
    rows, kinds = [int(number) for number in options.rows.split(",")], options.kinds.split(",")
    if arch_of(torch.device("cuda", 0)) < FP8_ARCH and "fp8" in kinds:
        print("not measured here: FP8, which needs compute capability 8.9 or above")
        kinds.remove("fp8")
    with tempfile.TemporaryDirectory() as folder:  # the folder of a separate, empty tuning file
        nothing = Path(folder) / "autotune.json"
        if options.compile:
            linear.tuner = Tuner(linear.SOURCES, path=nothing, do_bench=once)
            tune_all(kinds, rows)
            torch.cuda.synchronize()
            return 0
        if not options.seconds:
            tuned(kinds, rows)
            return 0
        copy = copy_rate(options.seconds)
        shapes = linear_shapes(config_of(MODEL))
        cases = [layer_case(kind, name, *shapes[name], count) for kind, name, count in itertools.product(kinds, shapes, rows)]
        linear.tuner = Tuner(linear.SOURCES, path=nothing)
        found = [measure(case, "default", copy, options.seconds) for case in cases]
    extra: dict[str, Any] = {"copy_bytes_per_second": copy}
    if options.tune:
        extra["autotune"] = tuned(kinds, rows)
        found += [measure(case, "tuned", copy, options.seconds) for case in cases]
    record = Record("linear", {"model": MODEL, "dtype": "fp16", "rows": rows}, found, extra=extra)
    if options.save:
        record.save(options.save)
    print(json.dumps(record.to_dict()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
