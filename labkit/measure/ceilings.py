"""Measures the limits of this machine: bytes read per second, and FLOPs per second in each precision.

The limits are measured, not taken from a table. A model can come near these limits but cannot exceed them. If other programs
disturbed the measurement, the limits are too low, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from labkit.measure.contention import Contention
from labkit.measure.timing import Timing, time_call
from labkit.precision import DTYPES, as_device
from labkit.torch_state import torch_threads

CPU_READ_BYTES = 256 * 2**20
GPU_READ_BYTES = 4 * 2**30
PRECISIONS = ("fp32", "bf16", "fp16")
MATRIX_SIZES = {"cpu": (256, 1024), "cuda": (2048, 8192)}
FAR_APART = 1.5
"""The largest accepted ratio of the median reading time to the shortest reading time.

On an idle machine the ratio stays below this value.
"""

BUSY = "The machine was busy when its limits were measured, so they are too low."


@dataclass(frozen=True)
class Ceilings:
    """The limits of one device. Each limit is the best result of several runs.

    `read_bytes_per_second` is measured by summing a tensor that is far larger than the caches. `flops_per_second` is measured
    with a square matrix product in each precision, with two FLOPs per multiply-add. `threads` is the number of CPU threads.
    `disturbed` is a message about how other programs disturbed the measurement; it is empty if they did not disturb it.
    """

    device: str
    threads: int
    read_bytes_per_second: float
    flops_per_second: dict[str, float]
    disturbed: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the limits as plain values, for a record."""
        return asdict(self)

    def caption(self, text: str = "") -> str:
        """Return `text` as a caption, with a warning added if these limits were measured on a busy machine."""
        return f"{text}\n{BUSY}".strip() if self.disturbed else text


def ceilings(
    device: str | torch.device | None = None,
    *,
    seconds: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ceilings:
    """Measure `device` (default: the best device of this machine). Each of the four measurements takes about `seconds`.

    `progress` is called with the number of finished measurements and the total number of measurements.
    """
    target = as_device(device)
    total = 1 + len(PRECISIONS)
    with Contention() as contention:
        progress(0, total)
        reader = Reader(target)
        readings = reader.time(max_seconds=seconds, max_runs=200)
        flops = {}
        for done, name in enumerate(PRECISIONS, 1):
            progress(done, total)
            flops[name] = matrix_rate(target, name, seconds)
        progress(total, total)
    read = reader.byte_count / min(readings.samples)
    return Ceilings(str(target), torch.get_num_threads(), read, flops, contention.words or _far_apart(readings))


def _far_apart(readings: Timing) -> str:
    """Return a warning if the times of repeated readings of the memory differ too much, or "" if they do not."""
    times = readings.median / min(readings.samples)
    return f"the median reading of the memory took {times:.1f} times as long as the fastest" if times > FAR_APART else ""


class Reader:
    """Reads a tensor far larger than the caches by summing it. A sum reads every element and writes almost nothing.

    A machine's memory bandwidth can change from second to second, especially on a virtual machine. To compare the speed of a
    run with the memory bandwidth, call `best_of` just before or after the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.byte_count = CPU_READ_BYTES
        if device.type == "cuda":
            self.byte_count = min(GPU_READ_BYTES, int(torch.cuda.mem_get_info(device)[0]) // 4)
        self._data = torch.zeros(self.byte_count // 4, dtype=torch.float32, device=device)

    def best_of(self, runs: int = 4) -> float:
        """Read the tensor `runs` times now; return the bytes per second of the fastest reading."""
        return self.rate(max_seconds=60.0, min_runs=runs, max_runs=runs, warmup=0)

    def rate(self, **settings: Any) -> float:
        """Return the bytes per second of the fastest reading. The settings are passed to `time_call`."""
        return self.byte_count / min(self.time(**settings).samples)

    def time(self, **settings: Any) -> Timing:
        """Return the seconds of each reading. The settings are passed to `time_call`."""
        return time_call(self._data.sum, device=self.device, spread_target=0, **settings)


def read_rate(device: torch.device, seconds: float = 1.0) -> float:
    """Read a large tensor repeatedly for `seconds`, and return the bytes per second of the fastest reading."""
    return Reader(device).rate(max_seconds=seconds, max_runs=200)


def matrix_rate(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """Measure the FLOPs per second of a square matrix product in `precision`.

    The data are random, because a GPU would run at a higher clock with zeros. A processor without units for a precision
    emulates this precision. Emulation is so slow that only a small product is timed. On a busy machine, torch's threads wait
    for one another: a small product can take a hundred times as long. A single thread waits for no other thread, so a product
    that seems slow is also timed with one thread.
    """
    small, large = MATRIX_SIZES[device.type]
    rate = _product_rate(device, DTYPES[precision], small, seconds / 4)
    if device.type == "cpu" and _takes(large, rate) > seconds / 2:
        with torch_threads(1):
            rate = max(rate, _product_rate(device, DTYPES[precision], small, seconds / 4))
    fits = _takes(large, rate) < seconds / 2
    return max(rate, _product_rate(device, DTYPES[precision], large, seconds)) if fits else rate


def _takes(size: int, rate: float) -> float:
    """The seconds that a product of two square matrices takes at `rate` FLOPs per second."""
    return 2 * size**3 / rate


def _product_rate(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    return rate_of(lambda: left @ right, size, device, seconds)


def rate_of(product: Callable[[], Any], size: int, device: torch.device, seconds: float) -> float:
    """The FLOPs per second of a product of two matrices `[size, size]`: of the fastest of many calls within `seconds`."""
    taken = time_call(product, device=device, warmup=1, min_runs=3, max_seconds=seconds, max_runs=200, spread_target=0)
    return 2 * size**3 / float(min(taken.samples))
