"""Peak memory: of this process on the host, and of a GPU as torch accounts for it."""

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
    """Watches the resident memory of this process and of those that it has started; `bytes` is the growth at its peak.

    Samples every `interval` seconds from a thread of its own, and once more at the end; a peak shorter than that can
    be missed. Linux's own high-water mark of this process is used as well where it can be reset.
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
        """Peak resident memory above that at the start of the block, in bytes."""
        return self.peak - self.before


def processes() -> list[psutil.Process]:
    """This process and those that it has started, and theirs."""
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def resident_bytes(of: Iterable[psutil.Process] | None = None) -> int:
    """Memory that these processes (left out: `processes()`) hold; memory that two of them share counts twice."""
    total = 0
    for process in processes() if of is None else of:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += int(process.memory_info().rss)
    return total


def peak_host_memory() -> HostPeak:
    """A context manager: `with peak_host_memory() as peak: ...`, then `peak.bytes`."""
    return HostPeak()


def give_back_free_memory() -> None:
    """Let go of what Python and the allocator keep of memory that nobody uses, so that resident memory is what is held."""
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
        line = next((line for line in file if line.startswith("VmHWM")), "VmHWM: 0 kB")  # not every kernel tells it
    return int(line.split()[1]) * 1024


def gpu_peak_bytes(device: Any) -> int | None:
    """Most bytes that torch had allocated on a GPU since `torch.cuda.reset_peak_memory_stats`; None for a CPU."""
    if not str(device).startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
