"""The passes that a rank has put on its GPU's queue: waited for, and bounded in time.

On the queue a collective waits for the other ranks without an end, and so may a call that the queue has no room for.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from labkit.errors import RankFailed
from labkit.parallel.links import Links
from labkit.parallel.waiting import wait_until

WATCH_SECONDS = 0.25


@dataclass(eq=False)
class Queued:
    """A pass: when its first operation was queued, and what says that its last one is done, once that is queued too."""

    began: float = field(default_factory=time.monotonic)
    done: Callable[[], bool] | None = None


def end_of_stream() -> Callable[[], bool]:
    """What says whether the current stream of the current GPU has done all that is on its queue by now."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.query


class GpuQueue:
    """Passes under way; when one takes longer than `timeout` seconds, `links.abort` is called, and so is who waits released.

    mark: gives what says whether all that was queued up to its call is done.
    """

    def __init__(self, links: Links, timeout: float = 600.0, mark: Callable[[], Callable[[], bool]] = end_of_stream) -> None:
        self._links, self._timeout, self._mark = links, timeout, mark
        self._passes: deque[Queued] = deque()
        self._cause = ""
        threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True, name="labkit gpu queue").start()

    @contextlib.contextmanager
    def queueing(self) -> Iterator[Queued]:
        """Queue a pass in the block. Raises `RankFailed` when the ranks were told to stop."""
        self._check()
        while self._passes and self._passes[0].done is not None and self._passes[0].done():
            self._passes.popleft()
        queued = Queued()
        self._passes.append(queued)
        try:
            yield queued
        except BaseException:
            self._passes.remove(queued)
            raise
        queued.done = self._mark()

    def wait(self, queued: Queued) -> None:
        """Until a pass is done; raises `RankFailed` when that took too long or the ranks were told to stop meanwhile."""
        done, aborted = queued.done, self._links.aborted
        assert done is not None
        wait_until(lambda: done() or aborted.is_set(), aborted, float("inf"), "a pass on the GPU's queue")
        self._check()  # collectives that were aborted come to an end as well, and give anything

    def _check(self) -> None:
        if self._links.aborted.is_set():
            raise RankFailed(self._cause or "all others were told to stop (a pass on the GPU's queue)")

    def look(self) -> None:
        """Abort if the first pass takes too long."""
        with contextlib.suppress(IndexError):
            first = self._passes[0]
            late = time.monotonic() - first.began > self._timeout
            if late and (first.done is None or not first.done()) and not self._links.aborted.is_set():
                self._cause = f"a pass on the GPU's queue was not done within {self._timeout:g} s"
                self._links.abort()


def _watch(reference: weakref.ref[GpuQueue]) -> None:
    """Look at a queue for as long as somebody has it."""
    while (queue := reference()) is not None:
        queue.look()
        del queue
        time.sleep(WATCH_SECONDS)
