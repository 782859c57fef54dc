"""A process waits for forward passes in a queue that it cannot inspect, and gives up after a time limit. No GPU is needed."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import native
from labkit.errors import RankFailed
from labkit.parallel import Layout
from labkit.parallel.gpu_queue import GpuQueue
from labkit.parallel.links import Links, create_groups
from labkit.parallel.waiting import wait_until
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")


@pytest.fixture
def links() -> Iterator[Links]:
    layout = Layout(2, 1)
    paths = create_groups(layout)
    yield Links.shared(layout, 0, paths, PATIENCE)
    for path in paths.values():
        Path(path).unlink()


class Stream:
    """Replaces a GPU's queue: its work is done when the test says so."""

    def __init__(self) -> None:
        self.done = 0
        self._marked = 0

    def mark(self) -> Callable[[], bool]:
        self._marked += 1
        number = self._marked
        return lambda: self.done >= number


def later(seconds: float, act: Callable[[], None]) -> None:
    threading.Timer(seconds, act).start()


def test_a_pass_is_waited_for_and_those_behind_it_are_not(links: Links) -> None:
    stream = Stream()
    queue = GpuQueue(links, mark=stream.mark)
    with queue.queueing() as first:
        pass
    with queue.queueing():
        pass
    later(0.05, lambda: setattr(stream, "done", 1))
    queue.wait(first)
    assert stream.done == 1


def test_a_pass_that_takes_too_long_ends_for_everybody(links: Links) -> None:
    queue = GpuQueue(links, 0.2, mark=Stream().mark)
    with queue.queueing() as queued:
        pass
    with pytest.raises(RankFailed, match=r"a pass on the GPU's queue was not done within 0\.2 s"):
        queue.wait(queued)
    with pytest.raises(RankFailed, match="were told to stop"):
        links.gather_bytes(b"x")


def test_who_finds_no_room_on_the_queue_is_released_as_well(links: Links) -> None:
    """When the time is over, the main thread is still inside a call, which only `abort` makes return."""
    queue = GpuQueue(links, 0.2, mark=Stream().mark)
    with queue.queueing():
        assert links.aborted.wait(PATIENCE)
    with pytest.raises(RankFailed, match=r"was not done within 0\.2 s"), queue.queueing():
        raise AssertionError("a pass was queued")


def test_other_ranks_failure_releases_who_waits_and_lets_nothing_be_queued(links: Links) -> None:
    queue = GpuQueue(links, mark=Stream().mark)
    with queue.queueing() as queued:
        pass
    later(0.05, links.abort)
    with pytest.raises(RankFailed, match="were told to stop"):
        queue.wait(queued)
    with pytest.raises(RankFailed, match="were told to stop"), queue.queueing():
        raise AssertionError("a pass was queued")


def test_what_was_done_after_an_abort_is_not_used(links: Links) -> None:
    """Aborted collectives also count as done, but their tensors can hold anything."""
    stream = Stream()
    queue = GpuQueue(links, mark=stream.mark)
    with queue.queueing() as queued:
        pass
    links.abort()
    stream.done = 1
    with pytest.raises(RankFailed, match="told to stop"):
        queue.wait(queued)


def test_a_pass_that_could_not_be_queued_is_not_under_way(links: Links) -> None:
    queue = GpuQueue(links, 0.1, mark=Stream().mark)
    with pytest.raises(ValueError, match="no such kernel"), queue.queueing():
        raise ValueError("no such kernel")
    time.sleep(0.6)
    assert not links.aborted.is_set()


def test_a_forgotten_queue_is_watched_no_more(links: Links) -> None:
    def watching() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "labkit gpu queue"}

    before = watching()
    queue = GpuQueue(links, mark=Stream().mark)
    (thread,) = watching() - before
    del queue
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_waiting_gives_its_time_and_comes_to_an_end() -> None:
    begun = time.monotonic()
    waited = wait_until(lambda: time.monotonic() - begun > 0.03, threading.Event(), PATIENCE, "x")
    assert 0.02 < waited <= time.monotonic() - begun
    with pytest.raises(RankFailed, match=r"the other ranks did not join within 0\.05 s \(all_reduce of rank 1\)"):
        wait_until(lambda: False, threading.Event(), 0.05, "all_reduce of rank 1")
    stop = threading.Event()
    later(0.05, stop.set)
    with pytest.raises(RankFailed, match=r"were told to stop \(all_reduce of rank 1\)"):
        wait_until(lambda: False, stop, PATIENCE, "all_reduce of rank 1")
