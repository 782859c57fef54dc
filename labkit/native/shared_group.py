"""Runs collectives between processes on one host through shared memory (src/shared.cpp). Each one takes microseconds."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import tempfile
from ctypes import byref
from pathlib import Path

import torch
from torch import Tensor

from labkit.errors import InsufficientResources, RankFailed
from labkit.native.library import GroupStruct, library, pointer

SLOT_BYTES = 1 << 20
FOLDER = Path("/dev/shm")
"""The folder for named shared memory.

If `FOLDER` is missing, a file in the temporary folder is used. The system keeps such a file in its page cache.
"""

_REASONS = {1: "did not answer within {timeout:g} s", 2: "and all others were told to stop"}


class SharedGroup:
    """Member `rank` of a group of `ranks`. `create` makes the group's file, and all members open it by its name.

    All members call the same collectives in the same order. A collective raises `RankFailed` after `timeout` seconds (the error
    names the late member), or as soon as a member calls `abort`. After the first failure the group cannot be used again.
    `native_add_up` holds the C function that a native forward pass calls for `all_reduce`, and its first argument.
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
        """Create the file of a new group, filled with zeros. The caller deletes the file once all members have opened it.

        Raises `InsufficientResources` if there is not enough shared memory.
        """
        return shared_file("group", region_bytes(ranks))

    @property
    def timeout(self) -> float:
        """Seconds that a call waits for other members."""
        return float(self._struct.timeout)

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._struct.timeout = seconds

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Replace the tensor by the sum over all members. All members get the same sum, bit for bit.

        The tensors must be contiguous and have the same shape and dtype on all members. The sum is computed in float32 and
        rounded to the tensor's dtype at the end.
        """
        if tensor.dtype != torch.float32:
            return tensor.copy_(self.all_reduce(tensor.float()))
        address = pointer(tensor, torch.float32, tensor.shape)
        self._done(library().lk_group_all_reduce(self.native_add_up[1], address, tensor.numel()), "all_reduce")
        return tensor

    def broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """Replace the tensor by the tensor of the member `root`.

        The tensors must be contiguous and have the same shape and dtype on all members.
        """
        self._done(self.try_broadcast(tensor, root), "broadcast")
        return tensor

    def try_broadcast(self, tensor: Tensor, root: int, patience: float | None = None) -> int:
        """Do the same as `broadcast`, but return a status: 0 on success, 1 if a member was late, and 2 after `abort`.

        patience: seconds to wait (default: `timeout`). After status 1, the caller can try again, unless the tensor is larger
        than `SLOT_BYTES` and a part of it was already sent.
        """
        address, timeout = pointer(tensor, tensor.dtype, tensor.shape), self._struct.timeout
        self._struct.timeout = timeout if patience is None else patience
        status: int = library().lk_group_broadcast(byref(self._struct), root, address, tensor.nbytes)
        self._struct.timeout = timeout
        return status

    def wait_for_broadcast(self, tensor: Tensor, root: int) -> Tensor:
        """Do the same as `broadcast`, but without a time limit."""
        while status := self.try_broadcast(tensor, root):
            if status == 2:
                self.fail(status, "broadcast")
        return tensor

    def gather(self, tensor: Tensor, root: int) -> Tensor | None:
        """Return the tensors of all members, `[ranks, *shape]`, on `root`, and None on all other members.

        The tensors must have the same shape and dtype on all members.
        """
        source, shape = pointer(tensor, tensor.dtype, tensor.shape), (self.ranks, *tensor.shape)
        everything = tensor.new_empty(shape) if self.rank == root else None
        target = pointer(everything, tensor.dtype, shape)
        self._done(library().lk_group_gather(byref(self._struct), root, source, tensor.nbytes, target), "gather")
        return everything

    def abort(self) -> None:
        """Make all current and later collectives of every member raise `RankFailed`."""
        library().lk_group_abort(byref(self._struct))

    def take_account(self) -> tuple[int, int, float]:
        """Return the number of collective calls since the last call of this method, their bytes and their seconds.

        The seconds include the time spent waiting for other members.
        """
        struct = self._struct
        account = struct.calls, struct.bytes, struct.seconds
        struct.calls, struct.bytes, struct.seconds = 0, 0, 0.0
        return account

    def fail(self, status: int, collective: str) -> None:
        """Raise `RankFailed` after a call has returned the nonzero `status`."""
        late = self.names[self._struct.late]
        raise RankFailed(f"{late} {_REASONS[status].format(timeout=self.timeout)} ({collective} of {self.names[self.rank]})")

    def _done(self, status: int, collective: str) -> None:
        if status:
            self.fail(status, collective)


def shared_file(kind: str, size: int) -> Path:
    """Create a file of `size` zero bytes, named `labkit-<kind>-...`, that processes can share. The caller deletes the file.

    Raises `InsufficientResources` if there is not enough room for the file.
    """
    folder = FOLDER if FOLDER.is_dir() else Path(tempfile.gettempdir())
    handle, name = tempfile.mkstemp(prefix=f"labkit-{kind}-", dir=folder)
    try:
        _take_room(handle, size)
    except BaseException as error:
        Path(name).unlink()
        if not isinstance(error, OSError) or error.errno != errno.ENOSPC:
            raise
        raise InsufficientResources(
            f"the ranks of a model need {size / 1e6:.2g} MB more of shared memory in {folder}, which has "
            f"{shutil.disk_usage(folder).free / 1e6:.2g} MB free; delete files there, or make it larger (for a container: "
            "docker run --shm-size=1g)"
        ) from None
    finally:
        os.close(handle)
    return Path(name)


def _take_room(handle: int, size: int) -> None:
    """Make a file `size` bytes long. Raises `OSError` if there is no room, where the system can tell.

    A file without room of its own ends the process with the signal SIGBUS, when its memory is first written.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system cannot do this
                raise
    os.truncate(handle, size)


def region_bytes(ranks: int) -> int:
    """The size of a group's memory in bytes."""
    size: int = library().lk_group_bytes(ranks, SLOT_BYTES)
    return size
