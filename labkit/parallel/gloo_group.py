"""A group of ranks on any hosts, connected by torch.distributed's gloo, with the interface of `SharedGroup`."""

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
"""The timeout that gloo itself applies. After a timeout of gloo, a group can no longer be used.

The timeout is long, because a failed rank is already noticed by its missing signs of life.
"""


class GlooGroup:
    """Member `rank` of a group of `ranks` members.

    All members create their `GlooGroup` at the same time, with the same `torch.distributed.Store` and the same name.

    Unless stated otherwise, a method returns when its operation is done. It raises `RankFailed` after `timeout` seconds, or as
    soon as `abort` is called.
    """

    def __init__(
        self, store: Any, name: str, rank: int, ranks: int, *, timeout: float = 600.0, names: tuple[str, ...] = ()
    ) -> None:
        self.rank, self.ranks, self.timeout = rank, ranks, timeout
        self.names = names or tuple(f"rank {number}" for number in range(ranks))
        api: Any = dist  # the type stubs of torch.distributed lack most of the functions that are used here
        self._group: Any = api.ProcessGroupGloo(api.PrefixStore(name, store), rank, ranks, NEVER)
        self._aborted = threading.Event()
        self._calls = self._bytes = 0
        self._seconds = 0.0
        self._failure: RankFailed | None = None
        self._unfinished: deque[tuple[Any, Tensor]] = deque()
        self._callback = ADD_UP(self._add_up)
        self.native_add_up = ctypes.cast(self._callback, ctypes.c_void_p), None

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace the tensor with the sum over all members. Every member gets the same bits."""
        self._wait(self._group.allreduce([tensor]), "all_reduce", tensor)
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """Copy the tensor of `root` to all members, in place. The root does not wait, and must not change its tensor later.

        The number of unfinished broadcasts has no limit. If there were a limit, the root could wait for a member that waits for
        the root. In practice there are as many unfinished broadcasts as steps in flight.
        """
        work = self._broadcast(tensor, root)
        if self.rank == root:
            self._unfinished.append((work, tensor))
            while self._unfinished and self._is_first_finished():
                self._finish_first()
        else:
            self._wait(work, "broadcast", tensor)
        return tensor

    def flush(self, patience: float | None = None) -> None:
        """Wait until all broadcasts are finished, each at most `patience` seconds (default: `timeout`)."""
        while self._unfinished:
            self._finish_first(patience)

    def _is_first_finished(self) -> bool:
        return bool(self._unfinished[0][0].is_completed())

    def _finish_first(self, patience: float | None = None) -> None:
        work, tensor = self._unfinished.popleft()
        self._wait(work, "broadcast", tensor, patience)

    def wait_for_broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """Like `broadcast`, but waits without a time limit; the root waits too."""
        self._wait(self._broadcast(tensor, root), "broadcast", tensor, patience=float("inf"))
        return tensor

    def gather(self, tensor: Tensor, root: int) -> Tensor | None:
        """Return the tensors of all members, `[ranks, *shape]`, on `root`, and None on the other members."""
        options: Any = dist.GatherOptions()
        options.rootRank = root
        everything = tensor.new_empty(self.ranks, *tensor.shape) if self.rank == root else None
        outputs = [] if everything is None else [list(everything)]
        self._wait(self._group.gather(outputs, [tensor], options), "gather", tensor)
        return everything

    def abort(self) -> None:
        """Make every current and later call of this process raise `RankFailed`."""
        self._aborted.set()

    def close(self) -> None:
        """Wait until all broadcasts are finished, then end gloo's threads. The group cannot be used after this call.

        After a failure, the threads are not ended, because that would mean waiting for the failed call. If there was no
        failure, the threads must end, because one of gloo's threads releases a tensor a moment after its call is done. If the
        interpreter were exiting at that moment, the process would end with SIGABRT.
        """
        if not self._aborted.is_set():
            self.flush()
            self._group = None

    def take_account(self) -> tuple[int, int, float]:
        """The number of calls since the last `take_account`, their total bytes, and their total seconds.

        The seconds include the time spent waiting.
        """
        account = self._calls, self._bytes, self._seconds
        self._calls = self._bytes = 0
        self._seconds = 0.0
        return account

    def fail(self, status: int, collective: str) -> None:
        """Raise the error of a sum that failed during a forward pass of the native library."""
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
            self.abort()  # the call is still running
            raise
        except RuntimeError as error:
            self.abort()
            raise RankFailed(f"{what}: {str(error).splitlines()[0]}") from None
        self._calls += 1
        self._bytes += tensor.numel() * tensor.element_size()
        self._seconds += seconds

    def _add_up(self, _context: int | None, data: ctypes._Pointer[ctypes.c_float], count: int) -> int:
        try:
            address = ctypes.addressof(data.contents)
            self.all_reduce(torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32))
        except RankFailed as error:
            self._failure = error
            return 1
        return 0
