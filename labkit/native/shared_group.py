"""A group of processes on this host that talk through memory they share (src/shared.cpp): a collective in microseconds."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from ctypes import byref
from pathlib import Path

import torch
from torch import Tensor

from labkit.errors import RankFailed
from labkit.native.library import GroupStruct, library, pointer

SLOT_BYTES = 1 << 20
FOLDER = Path("/dev/shm")
"""Memory that has a name; where there is none, a file in the temporary folder, which the system keeps in memory as well."""

_REASONS = {1: "did not answer within {timeout:g} s", 2: "and all others were told to stop"}


class SharedGroup:
    """Member `rank` of `ranks`, over a file that `create` made and all members open by its name.

    All members call the same collectives in the same order; each raises `RankFailed`, naming whom it waited for, after
    `timeout` seconds, or as soon as somebody called `abort`. Behind the first failure the group is of no use.
    `native_add_up` are the function and its first argument by which a native forward pass calls `all_reduce`.
    """

    def __init__(self, path: Path, rank: int, ranks: int, *, timeout: float = 8.0, names: tuple[str, ...] = ()) -> None:
        self.rank, self.ranks = rank, ranks
        self.names = names or tuple(f"rank {number}" for number in range(ranks))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), region_bytes(ranks))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._struct = GroupStruct(address, rank, ranks, SLOT_BYTES, 0, timeout, 0, 0, 0, 0.0)
        self.native_add_up = ctypes.cast(library().lk_group_all_reduce, ctypes.c_void_p), ctypes.addressof(self._struct)

    @staticmethod
    def create(ranks: int) -> Path:
        """The file of a new group, zeros; who made it deletes it once all members have opened it, or at the end."""
        return shared_file("group", region_bytes(ranks))

    @property
    def timeout(self) -> float:
        """Seconds that a call waits for others."""
        return float(self._struct.timeout)

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._struct.timeout = seconds

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over all members, in place: contiguous, of one shape and dtype everywhere; the same bits on all.

        It is added up in float32, and rounded to the tensor's own dtype at the end.
        """
        if tensor.dtype != torch.float32:
            return tensor.copy_(self.all_reduce(tensor.float()))
        address = pointer(tensor, torch.float32, tensor.shape)
        self._done(library().lk_group_all_reduce(self.native_add_up[1], address, tensor.numel()), "all_reduce")
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """What `root` has in `tensor`, in place: contiguous, of one shape and dtype everywhere."""
        self._done(self.try_broadcast(tensor, root), "broadcast")
        return tensor

    def try_broadcast(self, tensor: Tensor, root: int, patience: float | None = None) -> int:
        """`broadcast` that gives 1 where somebody was late, 2 after `abort`, else 0.

        patience: seconds to wait, `timeout` when left out. After 1 it can be tried again, unless a part of a tensor of more
        than `SLOT_BYTES` has gone already.
        """
        address, timeout = pointer(tensor, tensor.dtype, tensor.shape), self._struct.timeout
        self._struct.timeout = timeout if patience is None else patience
        status: int = library().lk_group_broadcast(byref(self._struct), root, address, tensor.nbytes)
        self._struct.timeout = timeout
        return status

    def wait_for_broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """`broadcast` that waits as long as it takes."""
        while status := self.try_broadcast(tensor, root):
            if status == 2:
                self.fail(status, "broadcast")
        return tensor

    def gather(self, tensor: Tensor, root: int) -> Tensor | None:
        """All members' tensors `[ranks, *shape]` on `root`, None elsewhere; contiguous, of one shape and dtype."""
        source, shape = pointer(tensor, tensor.dtype, tensor.shape), (self.ranks, *tensor.shape)
        everything = tensor.new_empty(shape) if self.rank == root else None
        target = pointer(everything, tensor.dtype, shape)
        self._done(library().lk_group_gather(byref(self._struct), root, source, tensor.nbytes, target), "gather")
        return everything

    def abort(self) -> None:
        """Let every member's current and later waiting end with `RankFailed`."""
        library().lk_group_abort(byref(self._struct))

    def take_account(self) -> tuple[int, int, float]:
        """Calls since the last account, their bytes, and the seconds in them, waiting for others included."""
        struct = self._struct
        account = struct.calls, struct.bytes, struct.seconds
        struct.calls, struct.bytes, struct.seconds = 0, 0, 0.0
        return account

    def fail(self, status: int, collective: str) -> None:
        """Raise the `RankFailed` of a call's status that is not 0."""
        late = self.names[self._struct.late]
        raise RankFailed(f"{late} {_REASONS[status].format(timeout=self.timeout)} ({collective} of {self.names[self.rank]})")

    def _done(self, status: int, collective: str) -> None:
        if status:
            self.fail(status, collective)


def shared_file(kind: str, size: int) -> Path:
    """A new file of `size` zero bytes for processes to share, called `labkit-<kind>-...`; its maker deletes it."""
    handle, name = tempfile.mkstemp(prefix=f"labkit-{kind}-", dir=FOLDER if FOLDER.is_dir() else None)
    os.truncate(handle, size)
    os.close(handle)
    return Path(name)


def region_bytes(ranks: int) -> int:
    """Bytes of a group's memory."""
    size: int = library().lk_group_bytes(ranks, SLOT_BYTES)
    return size
