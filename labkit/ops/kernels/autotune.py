"""Chooses the fastest of several ways to run a kernel, which are called candidates.

The candidates are measured once per shape and device. The choice is stored in a file that people can read.

The file is `autotune.json` in labkit's home. If the file has no entry for a problem, or if the entry was measured with other
versions or other kernels, the first candidate runs until `Tuner.tuning` measures the problem. Candidates are not measured while
requests run: the first request would wait for minutes, and a kernel cannot be timed while a CUDA graph is captured.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, TypeVar

import torch

from labkit.environment import find_gpus, find_versions
from labkit.errors import LabkitError
from labkit.home import home, locked, write_atomically

FORMAT = 1
"""The version of the file's format. A file in another format is renamed and not used."""
TIMED_RUNS = 15
"""The number of timed runs; the median of their times is used."""
CYCLES_PER_SECOND = 2e9
"""An upper limit on a GPU's clock rate, in Hz. Sleeping for this many cycles takes at least a second."""
Candidate = TypeVar("Candidate")
Entries = dict[str, dict[str, Any]]
"""The entries of one device in the tuning file, by problem.

Each entry holds `choice`, `milliseconds` by candidate (null if the candidate failed), `versions` and `tuned` (a date).
"""


class Problem(NamedTuple):
    """One use of a kernel, for which a candidate is chosen; `sizes` are in the kernel's own order."""

    kernel: str
    sizes: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def key(self) -> str:
        """The problem's name in the file, under the name of the device."""
        return f"{self.kernel} {'x'.join(map(str, self.sizes))} {str(self.dtype).removeprefix('torch.')}"


class TuningFile:
    """The file that stores the choices. It contains `{"format": 1, "devices": {device: {problem: entry}}}`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Entries]:
        """Return the entries by device. An unreadable file counts as empty and is renamed, with a warning."""
        try:
            return _devices(json.loads(self.path.read_text("utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            aside = self.path.with_suffix(".unreadable.json")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            warnings.warn(f"{self.path} holds no tuned kernels ({error}); it is now {aside.name}, tune again", stacklevel=2)
            return {}

    def merge(self, device: str, entries: Entries) -> None:
        """Add the entries of a device to the file.

        A lock ensures that only one process at a time changes the file, so no entry is lost.
        """
        with locked(self.path):
            devices = self.read()
            devices[device] = dict(sorted({**devices.get(device, {}), **entries}.items()))
            write_atomically(self.path, json.dumps({"format": FORMAT, "devices": devices}, indent=1) + "\n")


def _devices(stored: Any) -> dict[str, Entries]:
    """Return the entries of a parsed file. Raises `ValueError` for anything that `merge` does not write."""
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        found = stored.get("format") if isinstance(stored, dict) else None
        raise ValueError(f"its format is {found!r}, but this version of labkit reads format {FORMAT}")
    devices = stored.get("devices")
    if not isinstance(devices, dict):
        raise ValueError("it lists no devices")
    for device, entries in devices.items():
        for key, entry in entries.items() if isinstance(entries, dict) else [(device, None)]:
            if not isinstance(entry, dict) or not isinstance(entry.get("choice"), str):
                raise ValueError(f"{key!r} has no choice")
    return devices


class Tuner:
    """Chooses among the candidates for a problem.

    `sources` are the files of the kernels: a change of any of them makes old choices stale. `path` is the tuning file (default:
    the file in labkit's home). `do_bench` returns the milliseconds that a call takes (default: `gpu_milliseconds`).
    """

    def __init__(
        self,
        sources: Sequence[Path] = (),
        *,
        path: Path | None = None,
        do_bench: Callable[[Callable[[], object]], float] | None = None,
        device_name: Callable[[torch.device], str] | None = None,
        versions: Callable[[], dict[str, str]] | None = None,
    ) -> None:
        self._sources = sources
        self._path = path
        self._do_bench = do_bench or gpu_milliseconds
        self._device_name = device_name or _device_name
        self._find_versions = versions or _machine_versions
        self._chosen: dict[Problem, str | None] = {}
        self._report: Callable[[str], None] | None = None

    def choose(self, problem: Problem, candidates: Mapping[str, Candidate], run: Callable[[Candidate], object]) -> Candidate:
        """Return the candidate that was the fastest when measured, or the first candidate if none was measured.

        `run` runs a candidate. `run` is called only inside `tuning`, and never while a CUDA graph is captured.
        """
        if problem not in self._chosen:
            self._chosen[problem] = self._stored(problem)
        choice = self._chosen[problem]
        if choice not in candidates and self._report is not None and not _capturing(problem.device):
            choice = self._chosen[problem] = self._measure(problem, candidates, run, self._report)
        return candidates[choice] if choice is not None and choice in candidates else next(iter(candidates.values()))

    @contextlib.contextmanager
    def tuning(self, report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
        """Inside this block, `choose` measures each problem that has no choice yet, stores the choice and reports one line."""
        before, self._report = self._report, report
        try:
            yield
        finally:
            self._report = before

    @functools.cached_property
    def versions(self) -> dict[str, str]:
        """The versions that a choice depends on: torch, Triton, CUDA, the driver, and a hash of the kernels' sources."""
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(self._sources)))
        return {**self._find_versions(), "kernels": digest.hexdigest()[:12]}

    @functools.cached_property
    def _file(self) -> TuningFile | None:
        try:
            return TuningFile(self._path or home() / "autotune.json")
        except LabkitError as error:
            warnings.warn(f"kernels run untuned: {error}", stacklevel=2)
            return None

    @functools.cached_property
    def _devices(self) -> dict[str, Entries]:
        return self._file.read() if self._file is not None else {}

    def _stored(self, problem: Problem) -> str | None:
        if not self._devices:
            return None
        entry = self._devices.get(self._device_name(problem.device), {}).get(problem.key)
        return entry["choice"] if entry is not None and entry.get("versions") == self.versions else None

    def _measure(
        self,
        problem: Problem,
        candidates: Mapping[str, Candidate],
        run: Callable[[Candidate], object],
        report: Callable[[str], None],
    ) -> str:
        times: dict[str, float] = {}
        failure: Exception | None = None
        for label, plan in candidates.items():
            try:
                times[label] = self._do_bench(functools.partial(run, plan))
            except Exception as error:  # for example, it needs too much shared memory, or a library refuses the shape
                failure = error
                times[label] = math.inf
        best = min(times, key=lambda label: times[label])
        if failure is not None and times[best] == math.inf:
            raise failure
        report(f"{problem.key}: {best}, {times[best]:.4f} ms")
        self._keep(problem, best, times)
        return best

    def _keep(self, problem: Problem, choice: str, times: dict[str, float]) -> None:
        ordered = sorted(times.items(), key=lambda item: item[1])
        entry = {
            "choice": choice,
            "milliseconds": {label: round(taken, 5) if taken < math.inf else None for label, taken in ordered},
            "versions": self.versions,
            "tuned": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if self._file is not None:
            self._file.merge(self._device_name(problem.device), {problem.key: entry})


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def gpu_milliseconds(call: Callable[[], object]) -> float:
    """Return the median time of `call` on the current GPU in milliseconds. The L2 cache holds no useful data before each run.

    A kernel of a few microseconds takes longer to launch than to run. Therefore the GPU sleeps until the host has queued all
    runs. Because of this sleep, the time between the two events of a run includes only the GPU's work.
    """
    for _ in range(2):
        call()  # the first call compiles
    torch.cuda.synchronize()
    cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    flushed = torch.empty(2 * cache_bytes, dtype=torch.int8, device="cuda")
    begins, ends = ([_event() for _ in range(TIMED_RUNS)] for _ in range(2))
    started = time.perf_counter()
    call()
    to_queue = TIMED_RUNS * (time.perf_counter() - started + 1e-4)
    torch.cuda._sleep(int(2 * to_queue * CYCLES_PER_SECOND))  # type: ignore[no-untyped-call]
    for begin, end in zip(begins, ends, strict=True):
        flushed.zero_()
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return float(median(begin.elapsed_time(end) for begin, end in zip(begins, ends, strict=True)))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _machine_versions() -> dict[str, str]:
    gpus, _ = find_gpus()
    driver = gpus[0].driver if gpus else "unknown"
    return {**find_versions(("torch", "triton")), "cuda": str(torch.version.cuda), "driver": driver}
