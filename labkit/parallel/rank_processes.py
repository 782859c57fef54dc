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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from labkit.errors import RankFailed
from labkit.forked import by_owner
from labkit.parallel.devices import CPU
from labkit.parallel.heartbeat import Pulse
from labkit.parallel.layout import Layout
from labkit.parallel.links import Links, create_groups

SILENCE_SECONDS = 5.0
"""A rank that gave no sign of life for so long has stopped answering."""

WATCH_SECONDS = 0.1

LOST_OTHERS = 3
"""The exit status of a rank whose collective failed: the fault is another one's."""


class Ranks:
    """All ranks but this one, and this one's `links` to them; forgotten or closed, it ends them.

    Each is started with the run's folder, which holds `run.json`: `spec`, where the groups are, and on what kind of `device`
    (this rank's own) all compute. A rank's output appears here line by line, labelled, by `say`. When a rank ends, or is
    silent for `SILENCE_SECONDS`, whoever waits is released, the others are killed, and `check` raises `RankFailed` with
    rank, host, step and cause.
    """

    def __init__(
        self,
        layout: Layout,
        spec: dict[str, Any],
        *,
        device: torch.device = CPU,
        timeout: float = 600.0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.layout = layout
        groups, beats = create_groups(layout, device), Pulse.create(layout.ranks)
        folder = Path(tempfile.mkdtemp(prefix="labkit-run-"))
        shared = {
            "layout": asdict(layout),
            "groups": {name: str(path) for name, path in groups.items()},
            "pulse": str(beats),
            "timeout": timeout,
            "device": device.type,
            "meeting": str(folder / "meeting"),
        }
        (folder / "run.json").write_text(json.dumps(spec | shared))
        self.links = Links.shared(layout, 0, groups, timeout, device=device, meeting=folder / "meeting")
        self._watch = Watch(layout, self.links, Pulse(beats, layout.ranks), folder, [*groups.values(), beats])
        self._end = weakref.finalize(self, by_owner(self._watch.end))
        environ = os.environ | {"OMP_NUM_THREADS": str(spec["threads"]), "PYTHONUNBUFFERED": "1"}
        for rank in range(1, layout.ranks):
            command = [sys.executable, "-m", "labkit.parallel.rank_main", str(folder), str(rank)]
            self._watch.start(rank, command, environ, say or to_stderr)
        threading.Thread(target=self._watch.run, daemon=True, name="labkit ranks").start()

    def wait_ready(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Until every rank has read its part; raises `RankFailed`."""
        others, shown = range(1, self.layout.ranks), -1
        while (ready := sum(map(self._watch.pulse.is_ready, others))) < len(others):
            self.check()
            if ready != shown:
                progress(ready, len(others))
                shown = ready
            time.sleep(0.01)
        progress(len(others), len(others))

    def check(self) -> None:
        """Raise `RankFailed` if a rank has failed."""
        if self._watch.failure:
            self.close()
            raise RankFailed(self._watch.failure)

    def failure(self, patience: float = SILENCE_SECONDS + 1.0) -> RankFailed | None:
        """What went wrong when a collective did: waits until it is known which rank it was, `patience` seconds at most."""
        until = time.monotonic() + patience
        while not self._watch.failure and time.monotonic() < until:
            time.sleep(WATCH_SECONDS / 4)
        return RankFailed(self._watch.failure) if self._watch.failure else None

    def close(self) -> None:
        """End all ranks; whatever they are at, and also if they are gone already."""
        self._end()

    @property
    def process_ids(self) -> dict[int, int]:
        """Of the other ranks."""
        return {rank: process.pid for rank, process in self._watch.processes.items()}


class Watch:
    """The processes, and what a thread needs to look after them; knows no `Ranks`, so that one can be forgotten."""

    def __init__(self, layout: Layout, links: Links, pulse: Pulse, folder: Path, files: list[Path]) -> None:
        self.processes: dict[int, subprocess.Popen[str]] = {}
        self.pulse = pulse
        self.failure = ""
        self._layout, self._links, self._folder, self._files = layout, links, folder, files
        self._closing = threading.Event()

    def start(self, rank: int, command: list[str], environ: dict[str, str], say: Callable[[str], None]) -> None:
        """Start a rank, and pass on what it prints."""
        process = subprocess.Popen(
            command,
            env=environ | {"PYTHONIOENCODING": "utf-8:backslashreplace"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            process_group=0,  # a Ctrl-C is for the process that started it
        )
        self.processes[rank] = process

        def relay() -> None:
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    say(f"[rank {rank}] {line.rstrip()}")

        threading.Thread(target=relay, daemon=True, name=f"labkit output of rank {rank}").start()

    def run(self) -> None:
        """Look until something is wrong, or until the end."""
        while not self._closing.wait(WATCH_SECONDS):
            found = next(filter(None, map(self._fault, self.processes)), "")
            if found:
                self.failure = found
                for process in self.processes.values():
                    process.kill()
                self._links.abort()
                return

    def end(self) -> None:
        """Kill what runs, and delete the run's files."""
        self._closing.set()
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
        self._links.close()
        for file in self._files:
            file.unlink(missing_ok=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fault(self, rank: int) -> str:
        """What is wrong with a rank, in words; empty when nothing is."""
        cause = self._cause(rank)
        return self._layout.failure(rank, socket.gethostname(), self.pulse.step(rank), cause) if cause else ""

    def _cause(self, rank: int) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads((self._folder / f"failure-{rank}.json").read_text())["cause"])
        code = self.processes[rank].poll()
        if code == LOST_OTHERS:  # another one failed, which is the one to tell
            codes = (self.processes[other].poll() for other in self.processes if other != rank)
            return "" if any(other not in (None, LOST_OTHERS) for other in codes) else "it lost the others"
        if code is not None:
            return how_it_ended(code)
        silent = self.pulse.silent_for(rank)
        return f"it gave no sign of life for {silent:.0f} s" if silent > SILENCE_SECONDS else ""


def how_it_ended(code: int) -> str:
    """A process's exit status in words."""
    return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with status {code}"


def to_stderr(line: str) -> None:
    """Print a rank's line where progress goes."""
    print(line, file=sys.stderr, flush=True)
