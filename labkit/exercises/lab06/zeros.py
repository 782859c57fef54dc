"""Matrix products with a weight that is half zeros, in storage formats that skip the zeros and in others that do not."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from labkit import native, ops
from labkit.errors import NotAvailable
from labkit.exercises.lab05.throughput import IN, OUT
from labkit.measure import Timing, compare, progress_bar
from labkit.weight_formats import Sparse24Weight

PAIRS = {"zeros in a dense matrix": ("FP32", "FP32, zeros"), "CSR": ("FP32", "FP32, CSR"), "2:4": ("half", "half, 2:4")}
"""For each comparison: the dense form, and a form with zeros that has the same precision. The two are compared."""


def half_of(device: torch.device) -> torch.dtype:
    """The precision of the 2:4 form: float16 on a GPU, bfloat16 on a CPU."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def products(device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    """For each form, a function that computes x W^T with an 8,192 x 4,096 weight. "half" is fp16 on a GPU, bf16 on a CPU."""
    generator = torch.Generator("cpu").manual_seed(0)
    dense = torch.randn(OUT, IN, generator=generator, dtype=torch.float32, device="cpu") * IN**-0.5
    half = half_of(device)
    sparse = Sparse24Weight.quantize(dense).to("cpu", half)
    zeros = sparse.dequantize(torch.float32)
    csr = _csr(zeros.to(device))
    found: dict[str, Callable[[Tensor], Tensor]] = {
        "FP32": _product(dense, device, torch.float32),
        "FP32, zeros": _product(zeros, device, torch.float32),
        "FP32, CSR": lambda x: (csr @ x.T).T,
        "half": _product(dense.to(half), device, half),
        "half, 2:4": _product(sparse, device, half),
    }
    return found


def _csr(weight: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return weight.to_sparse_csr()


def _product(weight: Tensor | Sparse24Weight, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """labkit's matrix product for the device. On a CPU, the weight is packed for labkit's kernels if they are available."""
    form = weight.to(device)
    if device.type == "cpu" and native.available():
        from labkit.native.packed_weight import PackedWeight

        packed = PackedWeight(form)
        return lambda x: ops.linear(x.to(dtype), packed)
    return lambda x: ops.linear(x.to(dtype), form)


def measure(device: torch.device, seconds: float = 8.0) -> dict[str, Timing]:
    """Time the product of one row with each form, in turn. Raises `NotAvailable` on a CPU without labkit's kernels."""
    if device.type == "cpu" and not native.available():
        raise NotAvailable(f"labkit's CPU kernels are missing here ({native.why_not()}), so 2:4 is not measured here")
    x = torch.randn(1, IN, dtype=torch.float32, device=device)
    timed = {name: lambda call=call: call(x) for name, call in products(device).items()}
    bar = progress_bar("forms of a weight")
    return compare(timed, device=device, warmup=2, min_runs=5, max_runs=40, max_seconds=seconds, progress=bar)
