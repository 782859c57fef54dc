"""The lecture's table of number formats, measured on this machine with compute-bound and memory-bound matrix products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit import native, ops
from labkit.measure import Timing, compare, progress_bar
from labkit.weight_formats import Int4Weight, Int8Weight, W8A8Weight

LECTURE = {"throughput": (1, 8, 16, 32), "bandwidth": (1, 2, 4, 8)}
"""The columns "math throughput" and "bandwidth reduction" of the lecture, for FP32, FP16, INT8 and INT4."""
TITLES = {
    "throughput": "Throughput: products of 256 rows",
    "bandwidth": "Bandwidth: products of one row",
}
OUT, IN = 8192, 4096
"""The shape of the weight. In FP32, the weight has 134 MB, which is more than the caches of most processors hold."""
ROWS = {"throughput": 256, "bandwidth": 1}
"""The number of rows of x. A product of many rows, as in a prefill, is limited by arithmetic. A product of one row, as in a
decode step, is limited by reading the weight.
"""


def names(device: torch.device) -> list[str]:
    """The formats that are measured, one for each row of the lecture's table; on a CPU, BF16 replaces FP16."""
    return ["FP32", "FP16" if device.type == "cuda" else "BF16", "INT8", "INT4"]


def products(device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    """Functions that compute x W^T, one for each format, with the kernels that labkit's engine runs on this device.

    On a GPU, the INT8 kernel multiplies INT8 numbers; on a CPU, it does so if the processor can.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    weight = torch.randn(OUT, IN, generator=generator, dtype=torch.float32, device="cpu") * IN**-0.5
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    weight = weight.to(device)
    int8 = W8A8Weight if device.type == "cuda" else Int8Weight
    forms: dict[str, Any] = {
        "FP32": weight,
        "FP16": weight.to(half),
        "INT8": int8.quantize(weight),
        "INT4": Int4Weight.quantize(weight),
    }
    if device.type == "cpu" and native.available():
        from labkit.native.packed_weight import PackedWeight

        forms = {name: PackedWeight(form) for name, form in forms.items()}
    return {name: _product(form, torch.float32 if name == "FP32" else half) for name, form in forms.items()}


def _product(weight: Any, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda x: ops.linear(x.to(dtype), weight)


def measure(device: torch.device, kind: str, seconds: float = 8.0) -> dict[str, Timing]:
    """Time the matrix product in each format; the formats take turns. `kind` is a key of `ROWS`."""
    if device.type == "cpu" and not native.available():
        print(f"labkit's CPU kernels are missing here ({native.why_not()}), so small formats are dequantized at every product.")
    x = torch.randn(ROWS[kind], IN, dtype=torch.float32, device=device)
    timed = {name: lambda call=call: call(x) for name, call in products(device).items()}
    bar = progress_bar(kind)
    return compare(timed, device=device, warmup=2, min_runs=5, max_runs=40, max_seconds=seconds, progress=bar)
