"""Compares a fused operation with the same work in separate steps.

The learner predicts how many bytes are moved. Then the bytes are counted, and both forms of the operation are timed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from labkit import measure, ops
from labkit.errors import InvalidRequest
from labkit.exercises.comparison import Comparison
from labkit.exercises.describe import describe_difference
from labkit.exercises.kernel_guard import count_memory_bytes
from labkit.exercises.kernels import interpreted, kernel_device
from labkit.exercises.lab02.examples import Example, example
from labkit.exercises.lab02.reachable_code import reachable_code
from labkit.measure import plots
from labkit.measure.torch_traffic import torch_traffic
from labkit.ops.backend import has_triton
from labkit.ops.kernels.interpreter_traffic import count_traffic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measured:
    """The measurements of one operation: the bytes that the separate steps move, the bytes that the learner's kernel moves, and
    the seconds of each form.

    `bytes_together` is the number of bytes that must go through memory for the kernel. `asked_for` is the number of bytes that
    the programs of the kernel load and store. Both numbers are NaN where bytes cannot be counted.
    """

    example: Example
    bytes_apart: float
    launches_apart: int
    bytes_together: float
    asked_for: float
    apart: measure.Timing
    together: measure.Timing

    @property
    def gain(self) -> measure.Ratio:
        """The time of the separate steps divided by the time of the fused form."""
        return measure.ratio(self.apart, self.together)

    @property
    def words(self) -> str:
        """One line with the two times and their ratio. If the times are too noisy to compare, the line says so."""
        gain = self.gain
        if not gain.trusted:
            return f"time: {gain.words}"
        first, second = (bar.split(" (")[0] for bar in self.example.bars)
        return f"time: {1e3 * gain.slow:.3f} ms {first}, {1e3 * gain.fast:.3f} ms {second}: {gain}"

    def figure(self, guess: float, where: str) -> Figure:
        """Draw the predicted bytes (`guess`, in MB) and the counted bytes.

        The caption of the figure names the two timed forms and gives their times.
        """
        print(f"{self.words[0].upper()}{self.words[1:]} ({self.example.form}).")
        counted = self.bytes_apart if math.isnan(self.bytes_together) else self.bytes_together
        if not 1e-3 < 1e6 * guess / counted < 1e3:
            print(f"Your prediction is {guess:,.6g} MB; did you enter bytes or kB? 1 MB is 1,000,000 bytes.")
        if math.isnan(self.bytes_together):
            print(
                "Bytes of your kernel: not measured here. They are counted by Triton's interpreter, on machines without a GPU."
            )
        else:
            print(
                f"Your programs ask for {self.asked_for / 1e6:.2f} MB. They ask for some bytes twice. The second time, these "
                f"bytes come from a cache, so only {self.bytes_together / 1e6:.2f} MB must go through memory."
            )
        series = {
            "your prediction": [math.nan, guess],
            "counted": [self.bytes_apart / 1e6, self.bytes_together / 1e6],
        }
        names = [f"{self.example.bars[0]}, launches: {self.launches_apart}", self.example.bars[1]]
        times = self.words if self.gain.trusted else f"time: {self.gain}"
        caption = f"{times} ({self.example.form})\n{where}"
        return plots.prediction_plot(
            names, series, ylabel="MB", title=f"{self.example.title}: bytes moved (not time)", caption=caption
        )


class WrongAnswer(InvalidRequest):
    """The kernel to be measured does not return what its operation returns."""


FUSIONS = {
    "fused_residual_layer_norm": ("sum + norm", "residual_layer_norm"),
    "fused_rotary_cache_write": ("rotary + write", "rotary_cache_write"),
    "split_decode_attention": ("attention", "decode_attention"),
    "fused_linear_gelu": ("product + GELU", "linear_gelu"),
    "int8_product": ("int8 product", "int8"),
}
"""For each function that the learner writes: its label in figures, and the name of the example with which it is measured."""


_COUNTED: dict[Any, tuple[float, float]] = {}
"""The results of `_count` by operation, number of tokens and code. The results are kept because the interpreter is slow and the
same code always moves the same bytes.
"""


def show(points: dict[str, Measured], function: Callable[..., Any], guess: float, tokens: int, where: str) -> None:
    """Measure a learner's function with `fused`, store the result in `points`, and draw it with the prediction `guess` (MB).

    If the function is wrong, print a message instead.
    """
    label, name = FUSIONS[function.__name__]
    points.pop(label, None)
    try:
        points[label] = fused(name, function, tokens)
    except WrongAnswer as error:
        print(error)
        return
    from IPython.display import display

    display(points[label].figure(guess, where))  # type: ignore[no-untyped-call]


def fused(name: str, function: Callable[..., Any], tokens: int, seconds: float = 1.5) -> Measured:
    """Count the bytes that `function` moves in the example of operation `name`, and time both forms of the example.

    On a GPU, the fused form is the learner's kernel. On a CPU, it is a function made for a CPU that fuses the same steps.
    Raises `WrongAnswer` if `function` does not return what the operation returns.
    """
    device = kernel_device()
    found = example(name, tokens, device)
    if device.type == "cuda":
        found = replace(found, together=function, form="your kernel")
    traffic = torch_traffic(lambda: found.apart(*found.args))
    call = name, tokens, interpreted(), reachable_code(function)
    if call not in _COUNTED:
        _COUNTED[call] = _count(function, found)
    counted, asked_for = _COUNTED[call]
    return Measured(found, traffic.total, traffic.launches, counted, asked_for, **_time(found, device, seconds))


def _count(function: Callable[..., Any], found: Example) -> tuple[float, float]:
    """Check the answer of the learner's kernel and count its bytes.

    Returns the number of bytes that must go through memory, and the number of bytes that the kernel's programs ask for.
    """
    if not has_triton():
        return math.nan, math.nan
    own, plain = ([arg.clone() if hasattr(arg, "clone") else arg for arg in found.args] for _ in range(2))
    if not interpreted():
        _compare(found, function(*own), own, plain)
        return math.nan, math.nan
    bar = measure.progress_bar("programs counted in the interpreter", after=1.0)
    with count_memory_bytes(bar) as memory, count_traffic() as asked_for:
        answer = function(*own)
    _compare(found, answer, own, plain)
    return memory.total, asked_for.total


def _compare(found: Example, answer: Any, own: list[Any], plain: list[Any]) -> None:
    """Raise `WrongAnswer` if the answer, or an argument after the call, differs from what the operation itself gives."""
    right = (found.right or found.apart)(*plain)
    difference = Comparison().difference([answer, *own], [right, *plain])
    if difference:
        sizes = ", ".join(str(tuple(arg.shape)) for arg in plain if hasattr(arg, "shape"))
        raise WrongAnswer(
            f"Nothing is measured, because at this size (tensors of {sizes}) your kernel does not return what the operation "
            f"returns. {describe_difference(difference).message} Does your kernel contain a fixed number where a size or "
            "BLOCK should be?"
        )


def _time(found: Example, device: torch.device, seconds: float) -> dict[str, measure.Timing]:
    calls = {"apart": lambda: found.apart(*found.args), "together": lambda: found.together(*found.args)}
    bar = measure.progress_bar("apart and together")
    return measure.compare(calls, device=device, max_seconds=seconds, max_runs=200, warmup=5, progress=bar)


def roofline_points(measured: Mapping[str, Measured]) -> dict[str, tuple[float, float]]:
    """For each fused operation: its FLOPs per byte that must be moved, and the FLOPs per second that it achieved.

    If the times of an operation are too noisy, the operation is left out, and its name is printed.
    """
    noisy = [name for name, one in measured.items() if one.together.disturbed]
    if noisy:
        print(f"Not drawn, because other programs disturbed the measurement: {', '.join(noisy)}. Run their cells again.")
    return {
        name: (one.example.flops / one.example.least_bytes, one.example.flops / one.together.median)
        for name, one in measured.items()
        if name not in noisy
    }


def sweep_rows(int8_product: Callable[..., Any], rows: Sequence[int], size: int = 512) -> dict[str, list[float]]:
    """Measure the learner's int8 matrix product for one token, for each number of rows per program.

    On a GPU, the time is measured, in microseconds. Without a GPU, two numbers are counted: the MB that programs ask for and
    the MB that memory must move.
    """
    device = kernel_device()
    weight = ops.Int8Weight.quantize(torch.randn(size, size, device=device))
    x = torch.randn(1, size, device=device)
    calls = {str(n): functools.partial(int8_product, x, weight.values, weight.scales, rows=n) for n in rows}
    if device.type == "cuda":
        timings = measure.compare(calls, device=device, max_runs=200, max_seconds=3)
        return {"microseconds": [1e6 * timing.median for timing in timings.values()]}
    asked_for, needed = [], []
    bar = measure.progress_bar("tiles", after=1.0)
    for done, call in enumerate(calls.values(), 1):
        bar(done, len(calls))
        with count_memory_bytes() as memory, count_traffic() as traffic:
            call()
        asked_for.append(traffic.total / 1e6)
        needed.append(memory.total / 1e6)
    return {"MB that programs ask for": asked_for, "MB that memory must move": needed}
