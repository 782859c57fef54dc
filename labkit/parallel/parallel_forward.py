"""Rank 0's forward pass: every rank computes its part, and the logits come out here."""

from __future__ import annotations

import contextlib
import signal
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from labkit import ops
from labkit.errors import InvalidRequest, RankFailed
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache
from labkit.parallel.devices import CPU
from labkit.parallel.layout import Layout
from labkit.parallel.ledger import Entry, decode_entries, encode_entries
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.rank_processes import Ranks
from labkit.parallel.task_messages import DONE, Prefix, Task, decode, encode, encode_prefix, occupy_header, report_header
from labkit.parallel.torchrun import Joined


@dataclass(eq=False)
class Begun:
    """A pass that the other ranks have been given; this one runs its own part of it when its turn comes.

    Then it has `logits`, which are there once `wait` has returned.
    """

    task: Task
    cache: KVCache
    logits: Tensor | None = None
    wait: Callable[[], None] = lambda: None


class ParallelForward(Forward):
    """Runs batches on all ranks; each of the caller's caches has its like on every rank, for as long as it lives.

    A failure of any rank is raised as one `RankFailed` that names it; behind it every call raises the same. `model` is this
    rank's part. Of a pipeline, as many passes as there are stages are under way at a time (`submit`); `steps` counts them.
    """

    def __init__(self, ranks: Ranks | Joined, own: RankForward) -> None:
        self.ranks = ranks
        self.model = own.model
        self._own = own
        self._caches: weakref.WeakKeyDictionary[KVCache, int] = weakref.WeakKeyDictionary()
        self._freed: list[int] = []
        self._begun: deque[Begun] = deque()
        self.steps = self._made = 0
        self._failed: RankFailed | None = None

    @property
    def layout(self) -> Layout:
        """How many ranks there are, and who holds what."""
        return self.ranks.layout

    @property
    def steps_in_flight(self) -> int:
        """A pass for each stage to work on."""
        return self.model.part.stages

    @property
    def batch_device(self) -> torch.device:
        """Batches are made in the host's memory: they go to the other ranks from there, and to each one's own device."""
        return CPU

    @property
    def num_threads(self) -> int:
        """This rank's share of the cores."""
        return self._own.threads

    @property
    def survives_fork(self) -> bool:
        """Never: the other ranks answer only the process that they were started from."""
        return False

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits `[rows, vocab_size]`. Raises `RankFailed`, and `InvalidRequest` while an operation is swapped."""
        return self.submit(batch, cache)()

    def submit(self, batch: Batch, cache: KVCache) -> Callable[[], Tensor]:
        """Give the other ranks a pass; what is called to have its logits. Raises as a call does, now and then."""
        if ops.swapped():
            raise InvalidRequest("operations swapped by ops.use are not seen by the other ranks; use one process for them")
        with self._all_or_none():
            freed, self._freed[:] = tuple(self._freed), []
            self.steps += 1
            header, body = encode(Task(self.steps, batch.to(CPU), self._number(cache), cache.num_slots, freed))
            self.ranks.check()
            self._give(header, body)
            # The encoded batch is a copy: the caller's own may change before this rank comes to it.
            begun = Begun(decode(header, body, self.model.config.hidden_size), cache)
            self._begun.append(begun)
        return partial(self._logits, begun)

    def occupy(self, cache: KVCache) -> None:
        """Have every rank take the memory of its part of a cache, and wait until all have it."""
        with self._all_or_none():
            self._run_until(None)
            self.ranks.links.send_task(occupy_header(self._number(cache), cache.num_slots), None)
            cache.occupy()
            self.ranks.links.gather_bytes(DONE)

    def write_prefix_prompt(self, cache: KVCache, slots: Tensor, given: Tensor) -> None:
        """Keys and values that a request brings along, to each rank's layers and heads; passes that were begun come first."""
        with self._all_or_none():
            self._run_until(None)
            self.ranks.links.send_task(*encode_prefix(Prefix(self._number(cache), cache.num_slots, slots, given)))
            cache.write_prefix_prompt(slots, given)

    def ledger(self) -> list[Entry]:
        """What each rank did and what passed between them since the last time, in the order of the ranks."""
        with self._all_or_none():
            self._run_until(None)
            self.ranks.links.send_task(report_header(), None)
            found = self.ranks.links.gather_bytes(encode_entries(self._own.ledger.take()))
        assert found is not None
        return [entry for data in found for entry in decode_entries(data)]

    def close(self) -> None:
        """End the other ranks; a later call raises `RankFailed`."""
        if self._failed is None:
            self._failed = RankFailed("the engine was closed; load it again")
            self.ranks.close()

    def _give(self, header: Tensor, body: Tensor) -> None:
        """A pass to the others; while they cannot take it, this rank runs its part of those begun: they may wait for that."""
        while self._begun:
            if self.ranks.links.try_send_task(header, body):
                return
            self._run_first()
        self.ranks.links.send_task(header, body)

    def _logits(self, begun: Begun) -> Tensor:
        with self._all_or_none():
            self._run_until(begun)
            begun.wait()
        assert begun.logits is not None
        return begun.logits

    def _run_until(self, last: Begun | None) -> None:
        """This rank's part of all passes up to that one; the ranks run them in the order in which they were begun."""
        while self._begun and (last is None or last.logits is None):
            self._run_first()

    def _run_first(self) -> None:
        begun = self._begun.popleft()
        begun.logits = self._own(begun.task.batch, begun.cache, begun.task.number)
        begun.wait = self._own.waiter()

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """What must not be left half done: an interruption waits for its end, and a failure is everybody's end."""
        if self._failed:
            raise RankFailed(str(self._failed))
        with uninterrupted():
            try:
                yield
            except RankFailed as error:
                self._failed = self.ranks.failure() or error
                self.ranks.close()
                raise self._failed from None

    def _number(self, cache: KVCache) -> int:
        if cache not in self._caches:
            self._made += 1
            self._caches[cache] = self._made
            weakref.finalize(cache, self._freed.append, self._made)
        return self._caches[cache]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, or a notebook's Stop, back until the block has come to its end.

    Not where the handler is none of Python's: in a program that has Python in it, as a server's, it cannot be put back.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    held: list[tuple[Any, ...]] = []
    before = signal.signal(signal.SIGINT, lambda *given: held.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if held and callable(before):
            before(*held[0])
