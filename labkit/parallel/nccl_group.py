"""A group of processes with a GPU each: torch.distributed's NCCL, with what GPUs need of `SharedGroup`'s interface."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.errors import NotAvailable, RankFailed
from labkit.parallel.waiting import wait_until

NEVER = timedelta(days=30)
"""torch's own time-out, behind which it ends the process: a group's members are bounded in time by `GpuQueue`."""

GUARDS_OFF = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
"""Environment under which a group is made: torch's guards would end the process of whoever uses this library."""


class NcclGroup:
    """Member `rank` of `ranks`, on `device`; all make it from one `torch.distributed.Store` and under one name, then `connect`.

    A collective is put on the current stream's queue and does not wait, so that on every GPU they run in the order of the
    calls, one at a time: members that call in an order that has no circle never wait in one. Whether it has come to its end
    is asked of the stream. After `abort`, NCCL's kernels give up, what they gave is of no use, and every later call raises
    `RankFailed`.
    """

    def __init__(
        self, store: Any, name: str, rank: int, ranks: int, *, device: torch.device, names: tuple[str, ...] = ()
    ) -> None:
        api: Any = dist  # whose stubs lack most of what follows
        if not dist.is_nccl_available():
            raise NotAvailable(
                f"ranks on GPUs talk by NCCL, and torch {torch.__version__} was built without it; use device cpu"
            )
        self.rank, self.ranks, self.device = rank, ranks, device
        self.names = names or tuple(f"rank {number}" for number in range(ranks))
        options = api.ProcessGroupNCCL.Options()
        options._timeout = NEVER
        with _environment(GUARDS_OFF):
            self._group = api.ProcessGroupNCCL(api.PrefixStore(name, store), rank, ranks, options)
        self._aborted = threading.Event()
        self._ending: threading.Thread | None = None
        self._calls = self._bytes = 0

    def connect(self, patience: float) -> None:
        """Meet the other members, and let NCCL find the ways between their GPUs; all call it, before any collective.

        Raises `RankFailed` when somebody does not come within `patience` seconds, while NCCL is left waiting in its thread,
        and `NotAvailable` when NCCL finds no way.
        """
        failures: list[Exception] = []

        def meet() -> None:
            try:
                with torch.cuda.device(self.device):
                    self.all_reduce(torch.zeros(1, dtype=torch.float32, device=self.device))
                    torch.cuda.current_stream().synchronize()
            except Exception as error:  # whatever it is, it is this member's failure
                failures.append(error)

        thread = threading.Thread(target=meet, daemon=True, name="labkit nccl connect")
        thread.start()
        what = f"connecting the GPUs of {', '.join(self.names)}"
        wait_until(lambda: not thread.is_alive(), self._aborted, patience, what)
        if failures:
            raise NotAvailable(f"{what}: {str(failures[0]).splitlines()[0]}") from failures[0]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all members, in place: contiguous, of one shape and dtype everywhere; the same bits on all."""
        options: Any = dist.AllreduceOptions()
        self._queue("all_reduce", tensor, lambda: self._group.allreduce([tensor], _queued(options)))
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """What `root` has in `tensor`, in place: contiguous, of one shape and dtype everywhere."""
        options: Any = dist.BroadcastOptions()
        options.rootRank = root
        self._queue("broadcast", tensor, lambda: self._group.broadcast([tensor], _queued(options)))
        return tensor

    def gather(self, tensor: Tensor, root: int) -> Tensor | None:
        """All members' tensors `[ranks, *shape]` on `root`, None elsewhere; contiguous, of one shape and dtype."""
        options: Any = dist.GatherOptions()
        options.rootRank = root
        everything = tensor.new_empty(self.ranks, *tensor.shape) if self.rank == root else None
        outputs = [] if everything is None else [list(everything)]
        self._queue("gather", tensor, lambda: self._group.gather(outputs, [tensor], _queued(options)))
        return everything

    def abort(self) -> None:
        """Let what waits in this process end: collectives on the GPU's queue, and later calls with `RankFailed`.

        It returns at once. NCCL ends a communicator in a thread of its own, since that waits for the GPU, where another
        group's collective may be in the way until that group is aborted as well.
        """
        self._aborted.set()
        if self._ending is None:
            thread = threading.Thread(target=self._end, daemon=True, name="labkit nccl abort")
            with contextlib.suppress(RuntimeError):  # at the interpreter's end no thread starts, and the process goes
                thread.start()
                self._ending = thread

    def join(self, seconds: float) -> None:
        """Behind `abort`: until NCCL has let go of the GPU, so many seconds at most."""
        if self._ending is not None:
            self._ending.join(seconds)

    def take_account(self) -> tuple[int, int, float]:
        """Calls since the last account and their bytes; 0.0 for the seconds, which pass on the GPU, unseen from here."""
        account = self._calls, self._bytes, 0.0
        self._calls = self._bytes = 0
        return account

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is of no use any more, whatever NCCL says to that
            self._group.abort()

    def _queue(self, collective: str, tensor: Tensor, call: Any) -> None:
        what = f"{collective} of {self.names[self.rank]}"
        if self._aborted.is_set():
            raise RankFailed(f"all others were told to stop ({what})")
        assert tensor.is_contiguous()
        try:
            work = call()
            if work is not None:  # it runs on a stream of NCCL's own: let this one wait for that
                work.wait()
        except RuntimeError as error:
            raise RankFailed(f"{what}: {str(error).splitlines()[0]}") from None
        self._calls += 1
        self._bytes += tensor.nbytes


def _queued(options: Any) -> Any:
    """The options of a collective, on the current stream."""
    options.asyncOp = False
    return options


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables in a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
