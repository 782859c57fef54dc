"""Ranks that torchrun started on one or several hosts, with `torchrun ... -m labkit ...`, for example in a cluster job.

All ranks run the same command. Only rank 0 carries out the command; the other ranks compute for rank 0 and end when rank 0
ends.
"""

from __future__ import annotations

import atexit
import math
import os
import socket
import sys
import threading
import time
import weakref
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from labkit.errors import InvalidRequest, RankFailed
from labkit.forked import by_owner
from labkit.parallel.devices import CPU
from labkit.parallel.layout import Layout
from labkit.parallel.links import Links
from labkit.parallel.task_messages import StopHeader
from labkit.plurals import counted

BEAT_SECONDS = 0.5
SILENCE_SECONDS = 6.0
"""A rank that gives no sign of life for this many seconds has failed."""

FLUSH_SECONDS = 30.0
"""At the end, a rank waits at most this many seconds until other ranks have received what it sent, such as the task to end."""

MEET_VARIABLE = "LABKIT_MEET_SECONDS"
MEET_SECONDS = 540.0
"""A rank waits this many seconds until all ranks have begun, unless `MEET_VARIABLE` says how long.

The ranks of several hosts can begin minutes apart, because a host may first have to load a container image or a model. A server
gives a model 600 s to load, so the error that names the missing ranks comes before that limit.
"""

MOST_SECONDS = 86400.0

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether torchrun, or a program that sets the same environment variables, started this process."""
    return all(name in os.environ for name in NEEDED)


def meet_seconds() -> float:
    """How many seconds a rank waits until all ranks have begun. Raises `InvalidRequest` if `MEET_VARIABLE` is invalid."""
    given = os.environ.get(MEET_VARIABLE) or str(MEET_SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise InvalidRequest(f"{MEET_VARIABLE} is {given!r}; give a number of seconds above 0 and at most {MOST_SECONDS:g}")
    return seconds


class TorchrunRanks:
    """This rank and its links to the other ranks, with the interface of `LocalRanks`: `links`, `check`, `failure`, `close`.

    device: the device of this rank. Raises `InvalidRequest` if the number of started ranks is not the number of ranks in the
    layout, and `RankFailed` if not all ranks have connected after `patience` seconds (default: `meet_seconds`). A rank that
    cannot reach rank 0 may take twice as long to raise.

    timeout: how many seconds rank 0 waits for the other ranks inside a pass. The other ranks wait without a limit, for as long
    as rank 0 gives signs of life (see `LocalRanks`).
    """

    def __init__(
        self, layout: Layout, device: torch.device = CPU, *, patience: float | None = None, timeout: float = 600.0
    ) -> None:
        self.layout = layout
        self.rank, started = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if started != layout.ranks:
            raise InvalidRequest(
                f"tensor_parallel {layout.tensor_parallel} x pipeline_parallel {layout.pipeline_parallel} makes "
                f"{layout.ranks} ranks, but {started} were started; start {layout.ranks} ranks, or choose two numbers whose "
                f"product is {started}"
            )
        api: Any = dist
        patience = patience or meet_seconds()
        self._store = _store(self.rank, patience)
        store = api.PrefixStore("labkit", self._store)
        self._hosts = _hosts(store, self.rank, started, patience)
        patient = timeout if self.rank == 0 else math.inf
        self.links = Links.gloo(layout, self.rank, store.clone(), patient, device=device)
        self._signs = SignsOfLife(store.clone(), layout, self.rank, self._hosts, self.links)
        self._end = weakref.finalize(self, by_owner(_end), self._signs, self.links)

    def set_step(self, step: int) -> None:
        """Tell the other ranks which step this rank begins."""
        self._signs.step = step

    def give_up(self, cause: str) -> None:
        """Tell the other ranks what went wrong on this rank."""
        self._signs.cause = cause
        time.sleep(2 * BEAT_SECONDS)
        self.links.abort()

    def fail(self, step: int, cause: str) -> RankFailed:
        """End all ranks because of an error on rank 0 in the given step, and return the error that names rank 0.

        If another rank has failed before, the returned error names that rank.
        """
        self.set_step(step)
        self.give_up(cause)
        self._signs.fail(self.layout.failure(0, self._hosts[0], step, cause))
        self.close()
        return RankFailed(self._signs.failure)

    def check(self) -> None:
        """Raise `RankFailed` if a rank has failed."""
        if self._signs.failure:
            raise RankFailed(self._signs.failure)

    def failure(self, patience: float = SILENCE_SECONDS + 2.0) -> RankFailed | None:
        """The error for a failed collective; it names the rank that caused the failure.

        Waits until the failed rank is known, but at most `patience` seconds. Returns None if the failed rank is still unknown
        then.
        """
        until = time.monotonic() + patience
        while not self._signs.failure and time.monotonic() < until:
            time.sleep(0.02)
        return RankFailed(self._signs.failure) if self._signs.failure else None

    def close(self) -> None:
        """End this rank's links and its signs of life. Rank 0 first tells the other ranks to end."""
        self._end()


class SignsOfLife:
    """Signs of life in the store: a thread writes the signs of this rank and reads the signs of the other ranks.

    The thread has no reference to the `TorchrunRanks` object, so that Python can garbage-collect that object.
    """

    def __init__(self, store: Any, layout: Layout, rank: int, hosts: list[str], links: Links) -> None:
        self.step, self.cause, self.failure = 0, "", ""
        self._store, self._layout, self._rank, self._hosts, self._links = store, layout, rank, hosts, links
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="labkit signs of life")
        self._thread.start()

    def fail(self, failure: str) -> None:
        """Make all waiting calls of this rank fail, because a rank has failed. The failure that is reported first is kept."""
        self.failure = self.failure or failure
        atexit.register(_leave)
        self._links.abort()

    def end(self) -> None:
        """Stop the thread. A thread that uses the store while the interpreter exits would abort the process."""
        self._ended.set()
        if threading.current_thread() is not self._thread:  # this thread itself may run the finalizer of `TorchrunRanks`
            self._thread.join(timeout=SILENCE_SECONDS)

    def _run(self) -> None:
        watched = [rank for rank in range(self._layout.ranks) if rank != self._rank and 0 in (rank, self._rank)]
        seen = {rank: (b"", time.monotonic()) for rank in watched}
        count = 0
        while not self._ended.wait(BEAT_SECONDS):
            count += 1
            try:
                self._store.set(f"beat {self._rank}", f"{count} {self.step} {self.cause}")
                found = self._look(seen)
            except RuntimeError as error:
                found = _lost(error)
            if found and not self._ended.is_set():
                self.fail(found)
                return

    def _look(self, seen: dict[int, tuple[bytes, float]]) -> str:
        now = time.monotonic()
        for rank, (last, when) in seen.items():
            beat = self._store.get(f"beat {rank}") if self._store.check([f"beat {rank}"]) else b""
            if beat != last:
                seen[rank] = beat, now
                _, step, cause = beat.decode().split(" ", 2)
                if cause:
                    return self._words(rank, int(step), cause)
            elif now - when > SILENCE_SECONDS:
                step = last.decode().split(" ", 2)[1] if last else "0"
                return self._words(rank, int(step), f"it gave no sign of life for {now - when:.0f} s")
        return ""

    def _words(self, rank: int, step: int, cause: str) -> str:
        return self._layout.failure(rank, self._hosts[rank], step, cause)


def _store(rank: int, patience: float) -> Any:
    """The store through which the ranks find each other. Raises `RankFailed` if it cannot be reached."""
    api: Any = dist
    try:
        # With a world size of 1, rank 0 does not wait here for the other ranks: `_hosts` waits, and names the missing ranks.
        store, _, _ = next(api.rendezvous("env://", rank, 1, timeout=timedelta(seconds=patience)))
    except RuntimeError as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} (MASTER_ADDR:MASTER_PORT)"
        if "timed out" in str(error):
            why = f"rank {rank} could not connect to rank 0 at {place} within {patience:g} s; {_LONGER}"
        else:
            why = f"rank {rank} cannot use the ranks' store at {place}: {_first_line(error)}"
        raise RankFailed(why) from None
    return store


def _hosts(store: Any, rank: int, ranks: int, patience: float) -> list[str]:
    """Wait for all ranks, and return the name of each rank's host. Raises `RankFailed` with the ranks that are missing."""
    names = [f"host {other}" for other in range(ranks)]
    try:
        store.set(names[rank], socket.gethostname())
        try:
            store.wait(names, timedelta(seconds=patience))
        except RuntimeError:
            if not (late := [str(other) for other, name in enumerate(names) if not store.check([name])]):
                raise
            raise RankFailed(
                f"of {counted(ranks, 'rank')}, rank {', '.join(late)} did not connect within {patience:g} s; {_LONGER}"
            ) from None
        return [store.get(name).decode() for name in names]
    except RuntimeError as error:
        raise RankFailed(f"rank {rank} waited for the other ranks when {_lost(error)}") from None


_LONGER = f"start all ranks within this time, or set {MEET_VARIABLE} to more seconds on all ranks"


def _lost(error: RuntimeError) -> str:
    """Words for an error of the store: it is gone, and so is the rank whose process held it."""
    return f"the ranks' store no longer answers: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _end(signs: SignsOfLife, links: Links) -> None:
    if not signs.failure:
        try:
            if links.rank == 0:
                links.send_task(StopHeader())
            links.flush(FLUSH_SECONDS)
        except RankFailed as error:  # a rank still waits for rank 0 in an unfinished pass; it ends when rank 0 gives no signs
            if links.rank == 0:
                print(f"ranks could not be told to end: {error}", file=sys.stderr)
            links.abort()
    signs.end()
    links.close()


def _leave() -> None:
    """Exit at once at the end of the program, because gloo would wait for a collective that a missing rank never joins."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
