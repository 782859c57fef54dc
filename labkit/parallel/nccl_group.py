"""A group of ranks with one GPU each, connected by torch.distributed's NCCL.

The group has the methods of `SharedGroup` that ranks on GPUs use.
"""

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
"""torch's own timeout. It is long, because torch ends the process at a timeout. `GpuQueue` limits the time of collectives."""

GUARDS_OFF = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
"""Environment variables that are set while a group is made.

These variables turn off torch's own guards, which would end the whole process.
"""


class NcclGroup:
    """Member `rank` of a group of `ranks` members, on `device`.

    All members create their `NcclGroup` with the same `torch.distributed.Store`, then call `connect`.

    A collective is put on the queue of the current stream, and the call returns at once. Every GPU runs its collectives one at
    a time, in the order of the calls. So members do not wait in a circle if all of them call collectives in the same order. An
    event on the stream tells when a collective is done. After `abort`, NCCL's kernels end with meaningless results, and every
    later call raises `RankFailed`.
    """

    def __init__(
        self, store: Any, name: str, rank: int, ranks: int, *, device: torch.device, names: tuple[str, ...] = ()
    ) -> None:
        api: Any = dist  # the type stubs of torch.distributed lack most of the functions that are used here
        if not dist.is_nccl_available():
            raise NotAvailable(
                f"ranks on GPUs communicate through NCCL, but torch {torch.__version__} was built without NCCL; use device cpu"
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
        """Connect to the other members. All members call `connect` before the first collective.

        Raises `RankFailed` if a member does not connect within `patience` seconds (NCCL's thread then keeps waiting), and
        `NotAvailable` if NCCL cannot connect the GPUs.
        """
        failures: list[Exception] = []

        def meet() -> None:
            try:
                with torch.cuda.device(self.device):
                    self.all_reduce(torch.zeros(1, dtype=torch.float32, device=self.device))
                    torch.cuda.current_stream().synchronize()
            except Exception as error:  # any exception here is a failure of this member
                failures.append(error)

        thread = threading.Thread(target=meet, daemon=True, name="labkit nccl connect")
        thread.start()
        what = f"connecting the GPUs of {', '.join(self.names)}"
        wait_until(lambda: not thread.is_alive(), self._aborted, patience, what)
        if failures:
            raise NotAvailable(f"{what}: {str(failures[0]).splitlines()[0]}") from failures[0]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace the tensor with the sum over all members. Every member gets the same bits.

        The tensors must be contiguous and have the same shape and dtype on all members.
        """
        options: Any = dist.AllreduceOptions()
        self._queue("all_reduce", tensor, lambda: self._group.allreduce([tensor], _queued(options)))
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """Copy the tensor of `root` to all members, in place. The tensors must be contiguous, with equal shapes and dtypes."""
        options: Any = dist.BroadcastOptions()
        options.rootRank = root
        self._queue("broadcast", tensor, lambda: self._group.broadcast([tensor], _queued(options)))
        return tensor

    def gather(self, tensor: Tensor, root: int) -> Tensor | None:
        """Return the tensors of all members, `[ranks, *shape]`, on `root`, and None on the other members.

        The tensors must be contiguous and have the same shape and dtype on all members.
        """
        options: Any = dist.GatherOptions()
        options.rootRank = root
        everything = tensor.new_empty(self.ranks, *tensor.shape) if self.rank == root else None
        outputs = [] if everything is None else [list(everything)]
        self._queue("gather", tensor, lambda: self._group.gather(outputs, [tensor], _queued(options)))
        return everything

    def abort(self) -> None:
        """End the collectives on the GPU's queue, and make later calls raise `RankFailed`. Returns at once.

        A separate thread ends NCCL's communicator, because ending it means waiting for the GPU. A collective of another group
        can keep the GPU busy until that group is aborted, too.
        """
        self._aborted.set()
        if self._ending is None:
            thread = threading.Thread(target=self._end, daemon=True, name="labkit nccl abort")
            # No thread can be started while the interpreter exits, but then the process ends anyway.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._ending = thread

    def join(self, seconds: float) -> None:
        """After `abort`: wait until NCCL has released the GPU, but at most `seconds`."""
        if self._ending is not None:
            self._ending.join(seconds)

    def take_account(self) -> tuple[int, int, float]:
        """The number of calls since the last `take_account`, their total bytes, and 0.0 seconds.

        The time on the GPU is unknown.
        """
        account = self._calls, self._bytes, 0.0
        self._calls = self._bytes = 0
        return account

    def _end(self) -> None:
        with contextlib.suppress(RuntimeError):  # the communicator is no longer needed, so an NCCL error does not matter
            self._group.abort()

    def _queue(self, collective: str, tensor: Tensor, call: Any) -> None:
        what = f"{collective} of {self.names[self.rank]}"
        if self._aborted.is_set():
            raise RankFailed(f"all ranks were told to stop ({what})")
        assert tensor.is_contiguous()
        try:
            work = call()
            if work is not None:  # the collective runs on a stream of NCCL; make the current stream wait for it
                work.wait()
        except RuntimeError as error:
            raise RankFailed(f"{what}: {str(error).splitlines()[0]}") from None
        self._calls += 1
        self._bytes += tensor.nbytes


def _queued(options: Any) -> Any:
    """Set `options` so that the collective runs on the current stream."""
    options.asyncOp = False
    return options


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs."""
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
