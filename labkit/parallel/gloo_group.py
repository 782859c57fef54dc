"""A group of processes on any hosts, over the network: torch.distributed's gloo, with the interface of `SharedGroup`."""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.errors import RankFailed
from labkit.native.library import ADD_UP
from labkit.parallel.waiting import wait_until

NEVER = timedelta(days=30)
"""gloo's own time-out, after which a group is of no use: who has stopped is found out by the ranks' signs of life."""


class GlooGroup:
    """Member `rank` of `ranks`; all make it at the same time, from one `torch.distributed.Store` and under one name.

    Every call waits until it is done, until `timeout` seconds have gone, or until `abort`; then it raises `RankFailed`.
    """

    def __init__(
        self, store: Any, name: str, rank: int, ranks: int, *, timeout: float = 600.0, names: tuple[str, ...] = ()
    ) -> None:
        self.rank, self.ranks, self.timeout = rank, ranks, timeout
        self.names = names or tuple(f"rank {number}" for number in range(ranks))
        api: Any = dist  # whose stubs lack most of what follows
        self._group: Any = api.ProcessGroupGloo(api.PrefixStore(name, store), rank, ranks, NEVER)
        self._aborted = threading.Event()
        self._calls = self._bytes = 0
        self._seconds = 0.0
        self._failure: RankFailed | None = None
        self._on_their_way: deque[tuple[Any, Tensor]] = deque()
        self._callback = ADD_UP(self._add_up)
        self.native_add_up = ctypes.cast(self._callback, ctypes.c_void_p), None

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all members, in place; the same bits on all."""
        self._wait(self._group.allreduce([tensor]), "all_reduce", tensor)
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """What `root` has in `tensor`, in place; it goes on while the tensor is on its way, and must not change it.

        However many are: whom it waited for could wait for it. As ranks use it, these are the steps in flight.
        """
        work = self._broadcast(tensor, root)
        if self.rank == root:
            self._on_their_way.append((work, tensor))
            while self._on_their_way and self._first_has_arrived():
                self._arrive()
        else:
            self._wait(work, "broadcast", tensor)
        return tensor

    def flush(self) -> None:
        """Until nothing is on its way."""
        while self._on_their_way:
            self._arrive()

    def _first_has_arrived(self) -> bool:
        return bool(self._on_their_way[0][0].is_completed())

    def _arrive(self) -> None:
        work, tensor = self._on_their_way.popleft()
        self._wait(work, "broadcast", tensor)

    def wait_for_broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """`broadcast` that waits as long as it takes."""
        self._wait(self._broadcast(tensor, root), "broadcast", tensor, patience=float("inf"))
        return tensor

    def gather(self, tensor: Tensor, root: int) -> Tensor | None:
        """All members' tensors `[ranks, *shape]` on `root`, None elsewhere."""
        options: Any = dist.GatherOptions()
        options.rootRank = root
        everything = tensor.new_empty(self.ranks, *tensor.shape) if self.rank == root else None
        outputs = [] if everything is None else [list(everything)]
        self._wait(self._group.gather(outputs, [tensor], options), "gather", tensor)
        return everything

    def abort(self) -> None:
        """Let every current and later call of this process end with `RankFailed`."""
        self._aborted.set()

    def close(self) -> None:
        """End gloo's threads, once nothing is on its way; not where something has failed, which they would wait for.

        They let go of a tensor a moment after its call is done. Should the interpreter be going away then, that would end
        the process with SIGABRT. Of no use behind that.
        """
        if not self._aborted.is_set():
            self.flush()
            self._group = None

    def take_account(self) -> tuple[int, int, float]:
        """Calls since the last account, their bytes, and the seconds in them, waiting for others included."""
        account = self._calls, self._bytes, self._seconds
        self._calls = self._bytes = 0
        self._seconds = 0.0
        return account

    def fail(self, status: int, collective: str) -> None:
        """Raise what a native pass met while it added up."""
        raise self._failure or RankFailed(f"{collective} of {self.names[self.rank]} failed with status {status}")

    def _broadcast(self, tensor: Tensor, root: int) -> Any:
        options: Any = dist.BroadcastOptions()
        options.rootRank = root
        return self._group.broadcast([tensor], options)

    def _wait(self, work: Any, collective: str, tensor: Tensor, patience: float | None = None) -> None:
        what = f"{collective} of {self.names[self.rank]}"
        try:
            seconds = wait_until(work.is_completed, self._aborted, self.timeout if patience is None else patience, what)
            work.wait()
        except RankFailed:
            self.abort()  # the call is still on its way
            raise
        except RuntimeError as error:
            self.abort()
            raise RankFailed(f"{what}: {str(error).splitlines()[0]}") from None
        self._calls += 1
        self._bytes += tensor.numel() * tensor.element_size()
        self._seconds += seconds

    def _add_up(self, whom: int | None, data: ctypes._Pointer[ctypes.c_float], count: int) -> int:
        try:
            address = ctypes.addressof(data.contents)
            self.all_reduce(torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32))
        except RankFailed as error:
            self._failure = error
            return 1
        return 0
