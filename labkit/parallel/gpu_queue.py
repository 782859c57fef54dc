"""Waits for the forward passes that a rank has put on its GPU's queue, and limits how long they take.

A collective on the queue waits for the other ranks without a time limit. When the queue is full, a call that queues an
operation also waits without a time limit.
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
class QueuedPass:
    """A forward pass: when its first operation was queued, and a function that tells whether its last operation is done.

    `done` is None until the last operation has been queued.
    """

    began: float = field(default_factory=time.monotonic)
    done: Callable[[], bool] | None = None


def end_of_stream() -> Callable[[], bool]:
    """Return a function that tells whether the current stream has finished everything that was queued before this call."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.query


class GpuQueue:
    """The unfinished passes. If a pass takes longer than `timeout` seconds, `links.abort` is called, and all waiting ends.

    mark: is called to get a function that tells whether everything queued before this call is done.
    """

    def __init__(self, links: Links, timeout: float = 600.0, mark: Callable[[], Callable[[], bool]] = end_of_stream) -> None:
        self._links, self._timeout, self._mark = links, timeout, mark
        self._passes: deque[QueuedPass] = deque()
        self._cause = ""
        threading.Thread(target=_watch, args=(weakref.ref(self),), daemon=True, name="labkit gpu queue").start()

    @contextlib.contextmanager
    def queueing(self) -> Iterator[QueuedPass]:
        """A context manager whose block puts one pass on the queue. Raises `RankFailed` if the ranks have been told to stop."""
        self._check()
        while self._passes and self._passes[0].done is not None and self._passes[0].done():
            self._passes.popleft()
        queued = QueuedPass()
        self._passes.append(queued)
        try:
            yield queued
        except BaseException:
            self._passes.remove(queued)
            raise
        queued.done = self._mark()

    def wait(self, queued: QueuedPass) -> None:
        """Wait until a pass is done. Raises `RankFailed` if the pass takes too long or the ranks are told to stop."""
        done, aborted = queued.done, self._links.aborted
        assert done is not None
        wait_until(lambda: done() or aborted.is_set(), aborted, float("inf"), "a pass on the GPU's queue")
        self._check()  # an aborted collective also counts as done, but its result is meaningless

    def _check(self) -> None:
        if self._links.aborted.is_set():
            raise RankFailed(self._cause or "all ranks were told to stop (a pass on the GPU's queue)")

    def look(self) -> None:
        """Tell the ranks to stop if the oldest pass takes too long."""
        with contextlib.suppress(IndexError):
            first = self._passes[0]
            late = time.monotonic() - first.began > self._timeout
            if late and (first.done is None or not first.done()) and not self._links.aborted.is_set():
                self._cause = f"a pass on the GPU's queue was not done within {self._timeout:g} s"
                self._links.abort()


def _watch(reference: weakref.ref[GpuQueue]) -> None:
    """Call `look` again and again for as long as the queue exists."""
    while (queue := reference()) is not None:
        queue.look()
        del queue
        time.sleep(WATCH_SECONDS)
