"""What this machine can do at best: bytes read a second, and multiply-adds a second in each precision.

Measured, not looked up: a model can be near these and never above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from labkit.measure.timing import time_call
from labkit.precision import DTYPES, as_device

CPU_READ_BYTES = 256 * 2**20
GPU_READ_BYTES = 4 * 2**30
PRECISIONS = ("fp32", "bf16", "fp16")
MATRIX_SIZES = {"cpu": (256, 1024), "cuda": (2048, 8192)}


@dataclass(frozen=True)
class Ceilings:
    """The best of several runs on one device.

    `read_bytes_per_second`: a sum over a tensor far larger than the caches. `flops_per_second`: of a square matrix
    product, by precision, two FLOPs a multiply-add. `threads`: CPU threads used.
    """

    device: str
    threads: int
    read_bytes_per_second: float
    flops_per_second: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)


def ceilings(
    device: str | torch.device | None = None,
    *,
    seconds: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ceilings:
    """Measure `device` (the best there is when left out); each of the four measurements takes about `seconds`.

    `progress` is called with the measurements done and their number.
    """
    target = as_device(device)
    total = 1 + len(PRECISIONS)
    progress(0, total)
    read = read_rate(target, seconds)
    flops = {}
    for done, name in enumerate(PRECISIONS, 1):
        progress(done, total)
        flops[name] = matrix_rate(target, name, seconds)
    progress(total, total)
    return Ceilings(str(target), torch.get_num_threads(), read, flops)


class Reader:
    """Reads a tensor far larger than the caches (its sum: every element is needed, nothing is written).

    What a machine's memory gives can change from second to second, on a virtual machine most of all: a share of it is
    taken from a reading made beside the run, which is what `best_of` is for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.byte_count = CPU_READ_BYTES
        if device.type == "cuda":
            self.byte_count = min(GPU_READ_BYTES, int(torch.cuda.mem_get_info(device)[0]) // 4)
        self._data = torch.zeros(self.byte_count // 4, dtype=torch.float32, device=device)

    def best_of(self, runs: int = 4) -> float:
        """Bytes a second of the fastest of so many readings, made now."""
        return self.rate(max_seconds=60.0, min_runs=runs, max_runs=runs, warmup=0)

    def rate(self, **settings: Any) -> float:
        """Bytes a second of the fastest reading; the settings are those of `time_call`."""
        taken = time_call(self._data.sum, device=self.device, spread_target=0, **settings)
        return self.byte_count / min(taken.samples)


def read_rate(device: torch.device, seconds: float = 1.0) -> float:
    """Bytes a second of reading a large tensor, the best of a run of `seconds`."""
    return Reader(device).rate(max_seconds=seconds, max_runs=200)


def matrix_rate(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """FLOPs a second of a square product in `precision`, on random data (zeros would flatter a GPU's clocks).

    A precision the processor has no units for is emulated so slowly that a smaller product has to do.
    """
    small, large = MATRIX_SIZES[device.type]
    rate = _product_rate(device, DTYPES[precision], small, seconds / 4)
    fits = 2 * large**3 / rate < seconds / 2
    return max(rate, _product_rate(device, DTYPES[precision], large, seconds)) if fits else rate


def _product_rate(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    taken = time_call(
        lambda: left @ right, device=device, warmup=1, min_runs=3, max_seconds=seconds, max_runs=200, spread_target=0
    )
    return 2 * size**3 / min(taken.samples)
