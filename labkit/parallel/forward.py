"""Rank 0's forward pass: every rank computes its part, and the logits come out here."""

from __future__ import annotations

import weakref

from torch import Tensor

from labkit import ops
from labkit.engine.batch import Batch
from labkit.engine.kv_cache import KVCache
from labkit.errors import InvalidRequest, RankFailed
from labkit.parallel.links import Account
from labkit.parallel.rank import RankForward
from labkit.parallel.ranks import Ranks
from labkit.parallel.torchrun import Joined
from labkit.parallel.wire import Task, encode


class ParallelForward:
    """Called as `GPTJ.forward` is; each of the caller's caches has its like on every rank, for as long as it lives.

    A failure of any rank is raised as one `RankFailed` that names it; behind it every call raises the same. `model` is this
    rank's part; `accounts` say what this rank's collectives did in the last call.
    """

    def __init__(self, ranks: Ranks | Joined, own: RankForward) -> None:
        self.ranks = ranks
        self.model = own.model
        self._own = own
        self._caches: weakref.WeakKeyDictionary[KVCache, int] = weakref.WeakKeyDictionary()
        self._freed: list[int] = []
        self._steps = self._made = 0
        self._failed: RankFailed | None = None
        self.accounts: list[Account] = []

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits `[rows, vocab_size]`. Raises `RankFailed`, and `InvalidRequest` while an operation is swapped."""
        if self._failed:
            raise RankFailed(str(self._failed))
        if ops.swapped():
            raise InvalidRequest("operations swapped by ops.use are not seen by the other ranks; use one process for them")
        self._steps += 1
        freed, self._freed[:] = tuple(self._freed), []
        task = Task(self._steps, batch, self._number(cache), cache.num_slots, freed)
        try:
            self.ranks.check()
            self.ranks.links.send_task(*encode(task))
            logits = self._own(batch, cache)
        except RankFailed as error:
            self._failed = self.ranks.failure() or error
            self.ranks.close()
            raise self._failed from None
        assert logits is not None
        self.accounts = self.ranks.links.take_accounts()
        return logits

    def close(self) -> None:
        """End the other ranks; a later call raises `RankFailed`."""
        if self._failed is None:
            self._failed = RankFailed("the engine was closed; load it again")
            self.ranks.close()

    def _number(self, cache: KVCache) -> int:
        if cache not in self._caches:
            self._made += 1
            self._caches[cache] = self._made
            weakref.finalize(cache, self._freed.append, self._made)
        return self._caches[cache]
