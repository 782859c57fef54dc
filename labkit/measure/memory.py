"""Measures the peak memory of this process on the host, and the peak memory that torch counts on a GPU."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import psutil

from labkit.native import trim_heap


class HostPeak:
    """Watches the resident memory of this process and its descendants. `bytes` is the peak minus the memory at the start.

    A thread measures this memory every `interval` seconds, and once more at the end. A peak shorter than `interval` can be
    missed. Linux also records the peak of this process without its descendants. If that record can be reset, it is also used.
    """

    def __init__(self, interval: float = 0.002) -> None:
        self._interval = interval
        self._processes = processes()
        self.before = 0
        self.peak = 0

    def __enter__(self) -> HostPeak:
        self._can_reset = _reset_high_water_mark()
        self.before = self.peak = resident_bytes(self._processes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        marks = [self.peak, resident_bytes(self._processes)]
        if self._can_reset:
            marks.append(_high_water_mark() + resident_bytes(self._processes[1:]))
        self.peak = max(marks)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self.peak = max(self.peak, resident_bytes(self._processes))

    @property
    def bytes(self) -> int:
        """Peak resident memory minus the memory at the start of the block, in bytes."""
        return self.peak - self.before


def processes(root: int | None = None) -> list[psutil.Process]:
    """The process with the id `root` (default: this process) and all of its descendants."""
    first = psutil.Process(root)
    return [first, *first.children(recursive=True)]


def resident_bytes(of: Iterable[psutil.Process] | None = None) -> int:
    """The resident memory of these processes (default: `processes()`) in bytes.

    Memory that two processes share is counted twice.
    """
    total = 0
    for process in processes() if of is None else of:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += int(process.memory_info().rss)
    return total


def peak_host_memory() -> HostPeak:
    """Return a context manager. Use `with peak_host_memory() as peak: ...`, then read `peak.bytes`."""
    return HostPeak()


def give_back_free_memory() -> None:
    """Return unused memory of Python and the allocator to the system, so that only memory in use remains resident."""
    gc.collect()
    trim_heap()


def _reset_high_water_mark() -> bool:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def _high_water_mark() -> int:
    with open(f"/proc/{os.getpid()}/status") as file:
        line = next((line for line in file if line.startswith("VmHWM")), "VmHWM: 0 kB")  # some kernels do not have this line
    return int(line.split()[1]) * 1024


def gpu_peak_bytes(device: Any) -> int | None:
    """Return the peak of torch's allocated bytes on a GPU since `torch.cuda.reset_peak_memory_stats`. None for a CPU."""
    if not str(device).startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
