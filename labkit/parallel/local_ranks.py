"""Starts and watches the ranks of a model on this host.

Rank 0 is the process that creates the `LocalRanks` object, which starts and watches the other ranks.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from labkit.errors import RankFailed
from labkit.forked import by_owner
from labkit.launch.processes import WATCH_SECONDS, RankProcess, RankProcesses
from labkit.locked_folder import LockedFolder, ended_folders
from labkit.parallel.devices import CPU
from labkit.parallel.heartbeats import Heartbeats
from labkit.parallel.layout import Layout
from labkit.parallel.links import Links, create_groups, delete_files

SILENCE_SECONDS = 5.0
"""A rank that gives no sign of life for this many seconds has failed."""

LOST_OTHERS = 3
"""The exit status of a rank whose collective failed because of another rank."""

PREFIX, RUN = "labkit-ranks-", "run.json"
"""The beginning of the names of all runs' folders, and the name of the file in each folder that describes the run."""


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def delete_remains() -> None:
    """Delete the folders and shared files of this user's runs whose rank 0 was killed. Runs that continue keep theirs."""
    for folder in ended_folders(PREFIX, Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, ValueError, KeyError):
            run = json.loads((folder / RUN).read_text())
            delete_files(map(Path, [*run["groups"].values(), run["heartbeats"]]))
        shutil.rmtree(folder, ignore_errors=True)


class LocalRanks:
    """The other ranks, and this rank's `links` to them. The other ranks end when this object is closed or garbage-collected.

    Every rank gets the path of the run's folder. The file `RUN` in this folder holds `spec`, the paths of the groups'
    files, and the kind of device ("cpu" or "cuda") on which all ranks compute. device: the device of this rank. Lines that a
    rank prints are labelled and passed to `say`. When a rank ends, or gives no sign of life for `SILENCE_SECONDS`, the other
    ranks are killed, every waiting call ends, and `check` raises a `RankFailed` that gives the rank, host, step and cause.

    timeout: how many seconds rank 0 waits for the other ranks inside a pass. The other ranks wait without a limit, because rank
    0 can pause for any time between two passes, even if it has already submitted the second one. They end when rank 0 gives up
    or ends.
    """

    def __init__(
        self,
        layout: Layout,
        spec: dict[str, Any],
        *,
        device: torch.device = CPU,
        timeout: float = 600.0,
        say: Callable[[str], None] = _to_stderr,
    ) -> None:
        self.layout = layout
        delete_remains()
        with contextlib.ExitStack() as undo:
            own = LockedFolder(PREFIX, Path(tempfile.gettempdir()))
            undo.callback(own.delete)
            groups = create_groups(layout, device)
            undo.callback(delete_files, groups.values())
            beats = Heartbeats.create(layout.ranks)
            undo.callback(delete_files, [beats])
            meeting = own.path / "meeting"
            shared = {
                "layout": asdict(layout),
                "groups": {name: str(path) for name, path in groups.items()},
                "heartbeats": str(beats),
                "device": device.type,
                "meeting": str(meeting),
            }
            (own.path / RUN).write_text(json.dumps(spec | shared))
            self.links = Links.shared(layout, 0, groups, timeout, device=device, meeting=meeting)
            self._run = _Run(layout, self.links, Heartbeats(beats, layout.ranks), own, [*groups.values(), beats])
            self._end = weakref.finalize(self, by_owner(self._run.end))
            undo.pop_all()
        environ = {"OMP_NUM_THREADS": str(spec["threads"])}
        for rank in range(1, layout.ranks):
            arguments = [str(own.path), str(rank)]
            self._run.processes.add(RankProcess(rank, "labkit.parallel.rank_main", arguments, say=say, environ=environ))
        self._run.processes.watch(self._run.fault_of, self._run.fail)

    def wait_ready(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Wait until every rank has read its part; raises `RankFailed` if a rank fails."""
        others, shown = range(1, self.layout.ranks), -1
        while (ready := sum(map(self._run.heartbeats.is_ready, others))) < len(others):
            self.check()
            if ready != shown:
                progress(ready, len(others))
                shown = ready
            time.sleep(0.01)
        self._run.delete_files()
        progress(len(others), len(others))

    def check(self) -> None:
        """Raise `RankFailed` if a rank has failed."""
        if self._run.failure:
            self.close()
            raise RankFailed(self._run.failure)

    def failure(self, patience: float = SILENCE_SECONDS + 1.0) -> RankFailed | None:
        """The error for a failed collective; it names the rank that caused the failure.

        Waits until the failed rank is known, but at most `patience` seconds. Returns None if the failed rank is still unknown
        then.
        """
        until = time.monotonic() + patience
        while not self._run.failure and time.monotonic() < until:
            time.sleep(WATCH_SECONDS / 4)
        return RankFailed(self._run.failure) if self._run.failure else None

    def fail(self, step: int, cause: str) -> RankFailed:
        """End all ranks because of an error on rank 0 in the given step, and return the error that names rank 0.

        If another rank has failed before, the returned error names that rank.
        """
        self._run.fail(self.layout.failure(0, socket.gethostname(), step, cause))
        self.close()
        return RankFailed(self._run.failure)

    def close(self) -> None:
        """Kill all other ranks. A second call does nothing."""
        self._end()

    @property
    def process_ids(self) -> dict[int, int]:
        """The process ids of the other ranks."""
        return {process.rank: process.pid for process in self._run.processes}


class _Run:
    """The state that the watching thread uses.

    This state has no reference to the `LocalRanks` object, so that Python can garbage-collect that object.
    """

    def __init__(self, layout: Layout, links: Links, heartbeats: Heartbeats, own: LockedFolder, files: list[Path]) -> None:
        self.processes, self.heartbeats, self.failure = RankProcesses(), heartbeats, ""
        self._layout, self._links, self._own, self._files = layout, links, own, files

    def fault_of(self, process: RankProcess) -> str:
        """A description of a rank's fault; empty if the rank has none."""
        cause = self._cause(process)
        step = self.heartbeats.step(process.rank)
        return self._layout.failure(process.rank, socket.gethostname(), step, cause) if cause else ""

    def fail(self, failure: str) -> None:
        """Make all waiting calls fail, because a rank has failed. The failure that is reported first is kept."""
        self.failure = self.failure or failure
        self._links.abort()

    def end(self) -> None:
        """End the processes and delete the files of the run."""
        self.processes.end()
        self._links.close()
        self.delete_files()
        self._own.delete()

    def delete_files(self) -> None:
        """Delete the shared files. The memory stays, for the ranks that have opened the files."""
        delete_files(self._files)

    def _cause(self, process: RankProcess) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads((self._own.path / f"failure-{process.rank}.json").read_text())["cause"])
        status = process.exit_status
        if status == LOST_OTHERS:  # this rank failed only because another rank failed, so report the other rank
            others = [other.exit_status for other in self.processes if other is not process]
            known = any(other not in (None, LOST_OTHERS) for other in others)
            return "" if known else "the connection to the other ranks was lost"
        if status is not None:
            return process.how_it_ended()
        silent = self.heartbeats.silent_for(process.rank)
        return f"it gave no sign of life for {silent:.0f} s" if silent > SILENCE_SECONDS else ""
