"""The forward pass as rank 0 calls it: every rank computes its part, and rank 0 gets the logits."""

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
from labkit.launch.ledger import Entry, decode_entries, encode_entries
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache
from labkit.parallel.devices import CPU
from labkit.parallel.layout import Layout
from labkit.parallel.local_ranks import LocalRanks
from labkit.parallel.rank_forward import RankForward
from labkit.parallel.task_messages import (
    DONE,
    OccupyHeader,
    Prefix,
    ReportHeader,
    StepHeader,
    Task,
    decode_step,
    encode_prefix,
    encode_step,
)
from labkit.parallel.torchrun import TorchrunRanks


@dataclass(eq=False)
class SubmittedPass:
    """A pass that was sent to the other ranks.

    Rank 0 runs its own part later, in the order of submission, and then sets `logits`.

    Read the logits only after `wait` has returned.
    """

    task: Task
    cache: KVCache
    logits: Tensor | None = None
    wait: Callable[[], None] = lambda: None


class ParallelForward(Forward):
    """Runs batches on all ranks. For as long as a cache of the caller exists, every rank keeps a corresponding cache.

    If any rank fails, the current call and every later call raise a `RankFailed` that names the failed rank. This includes rank
    0: an exception in its part of a pass would leave the ranks at different passes, so all ranks are ended, and the model must
    be loaded again. `model` is this rank's part. In a pipeline with n stages, up to n passes are in flight at a time (see
    `submit`). `steps` counts all passes.
    """

    def __init__(self, ranks: LocalRanks | TorchrunRanks, own: RankForward) -> None:
        self.ranks = ranks
        self.model = own.model
        self._own = own
        self._caches: weakref.WeakKeyDictionary[KVCache, int] = weakref.WeakKeyDictionary()
        self._freed: list[int] = []
        self._submitted: deque[SubmittedPass] = deque()
        self.steps = self._made = 0
        self._ended = ""  # why no pass can run any more

    @property
    def layout(self) -> Layout:
        """How many ranks there are, and which part of the model each rank holds."""
        return self.ranks.layout

    @property
    def steps_in_flight(self) -> int:
        """The number of stages, because each stage can work on one pass."""
        return self.model.part.stages

    @property
    def batch_device(self) -> torch.device:
        """The CPU: batches are made in the host's memory, and every rank copies them to its own device."""
        return CPU

    @property
    def num_threads(self) -> int:
        """The number of threads with which this rank computes."""
        return self._own.threads

    @property
    def survives_fork(self) -> bool:
        """Always False, because the other ranks answer only the process that started them."""
        return False

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Return the logits `[rows, vocab_size]`.

        Raises `RankFailed` if a rank fails, and `InvalidRequest` while `ops.use` replaces an operation.
        """
        return self.submit(batch, cache)()

    def submit(self, batch: Batch, cache: KVCache) -> Callable[[], Tensor]:
        """Send a pass to the other ranks. Returns a function that waits for the logits.

        `submit` and the returned function raise the same errors as `forward`.
        """
        if ops.swapped():
            raise InvalidRequest(
                "the other ranks do not see the operations that ops.use replaces; load the model in one process to replace "
                "operations"
            )
        # Everything is prepared before the first byte is sent, so that a failure up to then changes no rank.
        freed = tuple(self._freed)
        header, body = encode_step(Task(self.steps + 1, batch.to(CPU), self._number(cache), cache.num_slots, freed))
        # The encoded batch is a copy, because the caller may change the original before this rank runs its part.
        submitted = SubmittedPass(decode_step(header, body, self.model.config.hidden_size), cache)
        with self._all_or_none():
            self.ranks.check()
            del self._freed[: len(freed)]
            self.steps += 1
            self._send(header, body)
            self._submitted.append(submitted)
        return partial(self._logits, submitted)

    def occupy(self, cache: KVCache) -> None:
        """Make every rank allocate the memory of its part of a cache now, and wait until all ranks have done so."""
        with self._all_or_none():
            self._run_until(None)
            self.ranks.links.send_task(OccupyHeader(self._number(cache), cache.num_slots))
            cache.occupy()
            self.ranks.links.gather_bytes(DONE)

    def write_prefix_prompt(self, cache: KVCache, slots: Tensor, given: Tensor) -> None:
        """Write the keys and values of a prefix prompt to the layers and heads of every rank, after all submitted passes."""
        header, body = encode_prefix(Prefix(self._number(cache), cache.num_slots, slots, given))
        with self._all_or_none():
            self._run_until(None)
            self.ranks.links.send_task(header, body)
            cache.write_prefix_prompt(slots, given)

    def ledger(self) -> list[Entry]:
        """The ledger entries of all ranks since the last call, in the order of the ranks."""
        with self._all_or_none():
            self._run_until(None)
            self.ranks.links.send_task(ReportHeader())
            found = self.ranks.links.gather_bytes(encode_entries(self._own.ledger.take()))
        assert found is not None
        return [entry for data in found for entry in decode_entries(data)]

    def close(self) -> None:
        """End the other ranks; a later call raises `RankFailed`."""
        if not self._ended:
            self._ended = "the engine was closed; load it again"
            self.ranks.close()

    def _send(self, header: StepHeader, body: Tensor) -> None:
        """Send a pass to the other ranks.

        While the other ranks cannot take the pass, this rank runs its part of earlier passes, because the other ranks may be
        waiting for its results.
        """
        while self._submitted:
            if self.ranks.links.try_send_task(header, body):
                return
            self._run_first()
        self.ranks.links.send_task(header, body)

    def _logits(self, submitted: SubmittedPass) -> Tensor:
        with self._all_or_none():
            self._run_until(submitted)
            submitted.wait()
        assert submitted.logits is not None
        return submitted.logits

    def _run_until(self, last: SubmittedPass | None) -> None:
        """Run this rank's part of all passes up to `last` in the order of submission. If `last` is None, run all passes."""
        while self._submitted and (last is None or last.logits is None):
            self._run_first()

    def _run_first(self) -> None:
        first = self._submitted.popleft()
        first.logits = self._own(first.task.batch, first.cache, first.task.number)
        first.wait = self._own.waiter()

    @contextlib.contextmanager
    def _all_or_none(self) -> Iterator[None]:
        """Runs a block that must not stop half-way: an interruption is delayed until the end of the block, and an exception
        ends all ranks, because it leaves them at different passes.
        """
        if self._ended:
            raise RankFailed(self._ended)
        with uninterrupted():
            try:
                yield
            except RankFailed as error:
                raise self._end(self.ranks.failure() or self.ranks.fail(self.steps, str(error))) from None
            except BaseException as error:
                cause = f"{type(error).__name__}: {error}".splitlines()[0]
                failure = self._end(self.ranks.failure(patience=0.0) or self.ranks.fail(self.steps, cause))
                if not isinstance(error, Exception):
                    raise
                raise failure from error

    def _end(self, failure: RankFailed) -> RankFailed:
        """End all ranks, and make every later call raise an error that says what failed first."""
        self._ended = f"{failure}; load the model again"
        self._submitted.clear()
        self.ranks.close()
        return failure

    def _number(self, cache: KVCache) -> int:
        if cache not in self._caches:
            self._made += 1
            self._caches[cache] = self._made
            weakref.finalize(cache, self._freed.append, self._made)
        return self._caches[cache]


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C, or a notebook's Stop, until the block has ended.

    If the signal handler is not a Python function (as in a server that embeds Python), nothing is delayed, because that handler
    could not be restored later.
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
