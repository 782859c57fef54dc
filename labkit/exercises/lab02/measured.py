"""One fused operation held against the same work in separate steps: predicted, counted and timed, in one figure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from labkit import measure, ops
from labkit.exercises.kernel_guard import count_memory_bytes
from labkit.exercises.kernels import interpreted, kernel_device
from labkit.exercises.lab02.examples import Example, example
from labkit.measure import plots
from labkit.measure.torch_traffic import torch_traffic
from labkit.ops.backend import has_triton
from labkit.ops.kernels.traffic import count_traffic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measured:
    """Bytes of an operation in separate steps and in the learner's kernel, and seconds of both forms.

    `bytes_together` is what memory must move, `asked_for` what the kernel's programs load and store; both are NaN where
    bytes cannot be counted.
    """

    example: Example
    bytes_apart: float
    launches_apart: int
    bytes_together: float
    asked_for: float
    apart: measure.Timing
    together: measure.Timing

    @property
    def words(self) -> str:
        """What was gained in time, in one line."""
        gain = measure.ratio(self.apart, self.together)
        return f"{1e3 * self.apart.median:.3f} ms apart, {1e3 * self.together.median:.3f} ms together: {gain}"

    def figure(self, guess: float, where: str) -> Figure:
        """Bytes predicted and counted; the caption says what was timed, and the time."""
        print(f"Time: {self.words} ({self.example.form}).")
        if math.isnan(self.bytes_together):
            print("Bytes of your kernel: not measured here: they are counted in Triton's interpreter, where there is no GPU.")
        else:
            print(
                f"Your programs ask for {self.asked_for / 1e6:.2f} MB; caches hold what is asked for twice, so memory must move "
                f"{self.bytes_together / 1e6:.2f} MB."
            )
        series = {
            "your prediction": [math.nan, guess / 1e6],
            "counted": [self.bytes_apart / 1e6, self.bytes_together / 1e6],
        }
        names = [f"apart (launches: {self.launches_apart})", "together (your kernel)"]
        caption = f"{self.words} ({self.example.form}); {where}"
        return plots.prediction_plot(names, series, ylabel="MB", title=f"{self.example.title}: bytes moved", caption=caption)


def fused(name: str, function: Callable[..., Any], tokens: int, seconds: float = 1.5) -> Measured:
    """Count what `function` moves on the example of operation `name`, and time the example apart and together.

    Together is the learner's kernel on a GPU, and on a CPU a form of the same fusion that is made for it.
    """
    device = kernel_device()
    found = example(name, tokens, device)
    if device.type == "cuda":
        found = replace(found, together=function, form="your kernel")
    traffic = torch_traffic(lambda: found.apart(*found.args))
    counted, asked_for = _count(function, found)
    return Measured(found, traffic.total, traffic.launches, counted, asked_for, **_time(found, device, seconds))


def _count(function: Callable[..., Any], found: Example) -> tuple[float, float]:
    """Bytes that memory must move for the learner's kernel, and bytes that its programs ask for."""
    if not (has_triton() and interpreted()):
        return math.nan, math.nan
    bar = measure.progress_bar("counting in the interpreter")
    bar(0, 1)
    with count_memory_bytes() as memory, count_traffic() as asked_for:
        function(*found.args)
    bar(1, 1)
    return memory.total, asked_for.total


def _time(found: Example, device: torch.device, seconds: float) -> dict[str, measure.Timing]:
    calls = {"apart": lambda: found.apart(*found.args), "together": lambda: found.together(*found.args)}
    bar = measure.progress_bar("apart and together")
    return measure.compare(calls, device=device, max_seconds=seconds, max_runs=200, warmup=5, progress=bar)


def roofline_points(measured: Mapping[str, Measured]) -> dict[str, tuple[float, float]]:
    """(FLOPs for each byte that must move, FLOPs a second reached together), of what was timed."""
    return {
        name: (one.example.flops / one.example.least_bytes, one.example.flops / one.together.median)
        for name, one in measured.items()
    }


def sweep_rows(int8_product: Callable[..., Any], rows: Sequence[int], size: int = 512) -> dict[str, list[float]]:
    """The cost of the learner's int8 product of one token by rows a program: MB asked for, or microseconds on a GPU."""
    device = kernel_device()
    weight = ops.Int8Weight.quantize(torch.randn(size, size, device=device))
    x = torch.randn(1, size, device=device)
    calls = {str(n): functools.partial(int8_product, x, weight.values, weight.scales, rows=n) for n in rows}
    if device.type == "cuda":
        timings = measure.compare(calls, device=device, max_runs=200, max_seconds=3)
        return {"microseconds": [1e6 * timing.median for timing in timings.values()]}
    asked_for, needed = [], []
    for call in calls.values():
        with count_memory_bytes() as memory, count_traffic() as traffic:
            call()
        asked_for.append(traffic.total / 1e6)
        needed.append(memory.total / 1e6)
    return {"MB that programs ask for": asked_for, "MB that memory must move": needed}
