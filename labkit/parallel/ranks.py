"""The processes of a distributed run on this host: started, watched, and all ended when one of them fails.

Rank 0 is the process that makes a `Ranks`; it starts the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.errors import RankFailed
from labkit.parallel.layout import Layout
from labkit.parallel.links import SharedLinks, create_groups
from labkit.parallel.pulse import READY, Pulse

SILENCE_SECONDS = 5.0
"""A rank that gave no sign of life for so long has stopped answering."""

WATCH_SECONDS = 0.1


class Ranks:
    """All ranks but this one, and this one's `links` to them.

    `command(rank)` starts a rank with the run's folder, which holds `run.json` (`spec` and where the groups are). A rank's
    output appears here line by line, labelled. When a rank ends, or is silent for `SILENCE_SECONDS`, whoever waits is
    released, the others are killed, and `check` raises `RankFailed` with rank, host, step and cause.
    """

    def __init__(
        self, layout: Layout, spec: dict[str, Any], *, timeout: float = 600.0, say: Callable[[str], None] | None = None
    ):
        self.layout = layout
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._folder = Path(tempfile.mkdtemp(prefix="labkit-run-"))
        self._groups = create_groups(layout)
        self._pulse_file = Pulse.create(layout.ranks)
        self.pulse = Pulse(self._pulse_file, layout.ranks)
        self._failure = ""
        self._closing = threading.Event()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        groups = {name: str(path) for name, path in self._groups.items()}
        shared = {"layout": vars(layout) | {}, "groups": groups, "pulse": str(self._pulse_file), "timeout": timeout}
        (self._folder / "run.json").write_text(json.dumps(spec | shared))
        self.links = SharedLinks(layout, 0, self._groups, timeout)
        self._end = weakref.finalize(self, _end, self._processes, self._folder, [*self._groups.values(), self._pulse_file])
        environ = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "PYTHONUNBUFFERED": "1"}
        for rank in range(1, layout.ranks):
            command = [sys.executable, "-m", "labkit.parallel.worker", str(self._folder), str(rank)]
            pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
            self._processes[rank] = subprocess.Popen(command, env=environ, text=True, **pipe)
            threading.Thread(target=self._relay, args=(rank,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True, name="labkit ranks").start()

    def wait_ready(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Until every rank has read its part; raises `RankFailed`."""
        others, shown = range(1, self.layout.ranks), -1
        while (ready := sum(self.pulse.state(rank) == READY for rank in others)) < len(others):
            self.check()
            if ready != shown:
                progress(ready, len(others))
                shown = ready
            time.sleep(0.01)
        progress(len(others), len(others))

    def check(self) -> None:
        """Raise `RankFailed` if a rank has failed."""
        if self._failure:
            self.close()
            raise RankFailed(self._failure)

    def failure(self, patience: float = SILENCE_SECONDS + 1.0) -> RankFailed | None:
        """What went wrong when a collective did: waits until it is known which rank it was, `patience` seconds at most."""
        until = time.monotonic() + patience
        while not self._failure and time.monotonic() < until:
            time.sleep(WATCH_SECONDS / 4)
        return RankFailed(self._failure) if self._failure else None

    def close(self) -> None:
        """End all ranks; whatever they are at, and also if they are gone already."""
        self._closing.set()
        self._end()

    @property
    def process_ids(self) -> dict[int, int]:
        """Of the other ranks."""
        return {rank: process.pid for rank, process in self._processes.items()}

    def _relay(self, rank: int) -> None:
        stream = self._processes[rank].stdout
        assert stream is not None
        for line in stream:
            self._say(f"[rank {rank}] {line.rstrip()}")

    def _watch(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            found = next(filter(None, map(self._fault, self._processes)), "")
            if found:
                self._failure = found
                for process in self._processes.values():
                    process.kill()
                self.links.abort()
                return

    def _fault(self, rank: int) -> str:
        """What is wrong with a rank, in words; empty when nothing is."""
        cause = self._cause(rank)
        if not cause:
            return ""
        where = f"at step {step}" if (step := self.pulse.step(rank)) else "before its first step"
        return f"{self.layout.name(rank)} on {socket.gethostname()} failed {where}: {cause}"

    def _cause(self, rank: int) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads((self._folder / f"failure-{rank}.json").read_text())["cause"])
        code = self._processes[rank].poll()
        if code is not None and code < 0:
            return f"its process was ended by signal {-code}"
        if code == 3:  # it heard of another one's failure, which is the one to tell
            others = (self._processes[other].poll() for other in self._processes if other != rank)
            return "" if any(other not in (None, 3) for other in others) else "it lost the others"
        if code is not None:
            return f"its process ended with status {code}"
        silent = self.pulse.silent_for(rank)
        return f"it gave no sign of life for {silent:.0f} s" if silent > SILENCE_SECONDS else ""


def _end(processes: dict[int, subprocess.Popen[str]], folder: Path, files: list[Path]) -> None:
    for process in processes.values():
        process.kill()
    for process in processes.values():
        process.wait()
    for file in files:
        file.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
