"""A torch.distributed process group on gloo that records every collective, limits its time, and names it in errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.errors import RankFailed
from labkit.launch.ledger import Ledger

BACKEND = "labkit"
MEETING_SECONDS = 60.0
"""All ranks of a new group must join the group within this many seconds."""
KINDS = (
    *("all_reduce", "broadcast", "reduce", "all_gather", "gather", "scatter", "all_to_all", "reduce_scatter", "barrier"),
    "send or recv",
)
P2P = len(KINDS) - 1
HEADERS = 1 << 20
"""The tag of a message's header is the tag of the message plus this number."""
DTYPES = [
    f"torch.{name}"
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
]

api: Any = dist  # the type stubs of torch.distributed lack most of the functions that are used here
c10d: Any = dist.distributed_c10d


class RecordedWork:
    """A collective that has begun. `wait` waits for its end and adds it to the ledger."""

    def __init__(self, work: Any, done: Callable[[], None], failed: Callable[[Exception], Exception]) -> None:
        self._work, self._done, self._failed = work, done, failed
        self._ended = False

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Wait until the collective is done. Raises `RankFailed` if a rank does not take part in time."""
        if not self._ended:
            try:
                self._work.wait()
            except RuntimeError as error:
                raise self._failed(error) from None
            self._ended = True
            self._done()
        return True

    def is_completed(self) -> bool:
        """Whether `wait` would return at once."""
        return self._ended or bool(self._work.is_completed())

    def is_success(self) -> bool:
        """Whether `wait` has been called and the collective is done."""
        return self._ended


class RecordedGroup(api.ProcessGroup):  # type: ignore[misc]
    """A process group that connects ranks over the loopback interface of this host, and adds every collective to `ledger`.

    `under_way` counts collectives that have begun and whose `wait` has not been called. checked: before a collective, the ranks
    check that they all call the same collective with the same shape and dtype. If they do not check this, gloo ends a process
    whose tensor does not match the data that arrives. The check takes about as long as a small collective.
    """

    def __init__(self, store: Any, rank: int, ranks: int, timeout: timedelta, ledger: Ledger, *, checked: bool) -> None:
        super().__init__(rank, ranks)
        self._rank, self._ranks, self.ledger = rank, ranks, ledger
        self.under_way = 0
        self._seconds, self._checked = timeout.total_seconds(), checked
        options = api.ProcessGroupGloo._Options()
        options._devices = [api.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timeout
        self._gloo = api.ProcessGroupGloo(store, rank, ranks, options)

    def size(self) -> int:
        """How many ranks there are."""
        return self._ranks

    def getBackendName(self) -> str:  # noqa: N802
        """The backend's name."""
        return BACKEND

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> RecordedWork:
        """Replace each rank's tensor by the sum of the tensors of all ranks, or another reduction if `opts` names one."""
        return self._recorded("all_reduce", tensors[0], lambda: self._gloo.allreduce(tensors, opts or c10d.AllreduceOptions()))

    def broadcast(self, tensors: list[Tensor], opts: Any) -> RecordedWork:
        """All ranks get the tensor of the rank `opts.rootRank`."""
        return self._recorded("broadcast", tensors[0], lambda: self._gloo.broadcast(tensors, opts), opts.rootRank)

    def reduce(self, tensors: list[Tensor], opts: Any) -> RecordedWork:
        """The rank `opts.rootRank` gets the sum of the tensors of all ranks, or another reduction if `opts` names one."""
        return self._recorded("reduce", tensors[0], lambda: self._gloo.reduce(tensors, opts), opts.rootRank)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> RecordedWork:
        """All ranks get the tensors of all ranks."""
        given = opts or c10d.AllgatherOptions()
        return self._recorded("all_gather", inputs[0], lambda: self._gloo.allgather(outputs, inputs, given))

    def all_gather_single(self, output: Tensor, tensor: Tensor, opts: Any = None) -> RecordedWork:
        """All ranks get the tensors of all ranks, concatenated."""
        return self.allgather([list(output.chunk(self._ranks))], [tensor])

    _allgather_base = all_gather_single

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> RecordedWork:
        """The rank `opts.rootRank` gets the tensors of all ranks."""
        return self._recorded("gather", inputs[0], lambda: self._gloo.gather(outputs, inputs, opts), opts.rootRank)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> RecordedWork:
        """The rank `opts.rootRank` gives a list of tensors; each rank gets one tensor of this list."""
        return self._recorded("scatter", outputs[0], lambda: self._gloo.scatter(outputs, inputs, opts), opts.rootRank)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> RecordedWork:
        """Each rank sends one tensor to every rank."""
        return self._recorded(
            "all_to_all", inputs[0], lambda: self._gloo.alltoall(outputs, inputs, opts or c10d.AllToAllOptions())
        )

    def reduce_scatter_single(self, output: Tensor, tensor: Tensor, opts: Any) -> RecordedWork:
        """Each rank gets its part of the sum of the tensors of all ranks."""
        run = getattr(self._gloo, "reduce_scatter_single", None) or self._gloo._reduce_scatter_base
        return self._recorded("reduce_scatter", tensor, lambda: run(output, tensor, opts))

    _reduce_scatter_base = reduce_scatter_single

    def barrier(self, opts: Any = None) -> RecordedWork:
        """Wait until all ranks have called `barrier`."""
        return self._recorded("barrier", None, lambda: self._gloo.barrier(c10d.BarrierOptions()))

    def send(self, tensors: list[Tensor], to: int, tag: int = 0) -> RecordedWork:
        """Send a tensor to the rank `to`."""
        self._require(to)
        if not self._checked:
            return self._recorded("send", tensors[0], lambda: self._gloo.send(tensors, to, tag), to)
        header = self._gloo.send([_about(P2P, tensors[0])], to, tag + HEADERS)
        return self._recorded("send", tensors[0], lambda: _Announced(header, self._gloo.send(tensors, to, tag)), to)

    def recv(self, tensors: list[Tensor], source: int, tag: int = 0) -> RecordedWork:
        """Receive a tensor from the rank `source`."""
        self._require(source)
        if not self._checked:
            return self._recorded("recv", tensors[0], lambda: self._gloo.recv(tensors, source, tag), source)
        coming = _about(P2P, tensors[0])
        header = self._gloo.recv([coming], source, tag + HEADERS)
        return self._recorded("recv", tensors[0], lambda: _Checked(header, coming, tensors, self._gloo, source, tag), source)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> RecordedWork:
        """Receive a tensor from the rank that sends one first."""
        return self._recorded("recv", tensors[0], lambda: self._gloo.recv_anysource(tensors, tag))

    def _require(self, rank: int) -> None:
        if not 0 <= rank < self._ranks:
            raise ValueError(f"there is no rank {rank}; the {self._ranks} ranks are 0 to {self._ranks - 1}")

    def _compare(self, what: str, tensor: Tensor | None) -> None:
        """Raise `MismatchError` unless all ranks call this collective with the same shape and dtype."""
        mine = _about(KINDS.index(what), tensor)
        found = [torch.empty_like(mine) for _ in range(self._ranks)]
        self._gloo.allgather([found], [mine], c10d.AllgatherOptions()).wait()
        for rank, theirs in enumerate(found):
            if theirs[0] != mine[0]:
                other = KINDS[int(theirs[0])]
                raise MismatchError(
                    f"rank {self._rank} calls {what}, but rank {rank} calls {other}; all ranks must call the same collective"
                )
            if not torch.equal(theirs, mine):
                given = f"rank {self._rank} gives {_shape(mine)}, rank {rank} gives {_shape(theirs)}"
                raise MismatchError(f"{what}: {given}; all ranks must give the same shape and dtype")

    def _recorded(self, what: str, tensor: Tensor | None, start: Callable[[], Any], other: int | None = None) -> RecordedWork:
        shape = () if tensor is None else tuple(tensor.shape)
        size = 0 if tensor is None else tensor.nbytes
        began = time.monotonic()

        def failed(error: Exception) -> Exception:
            waited = time.monotonic() - began
            partner = "" if other is None else f" {'to' if what == 'send' else 'from'} rank {other}"
            why = "the other ranks did not join" if waited > 0.9 * self._seconds else str(error).splitlines()[0]
            if isinstance(error, MismatchError):
                return ValueError(str(error))
            return RankFailed(f"{what} of {list(shape)}{partner}: {why} (waited {waited:.1f} s)")

        try:
            if self._checked and what not in ("send", "recv"):
                self._compare(what, tensor)
            work = start()
        except RuntimeError as error:
            raise failed(error) from None
        self.under_way += 1

        def done() -> None:
            self.under_way -= 1
            self.ledger.add(what, began, shape=shape, byte_count=size)

        return RecordedWork(work, done, failed)


_groups: list[RecordedGroup] = []
"""The default group, and all groups that the launched function has made."""


class MismatchError(RuntimeError):
    """The ranks do not call the same collective, or their tensors do not match."""


def _about(kind: int, tensor: Tensor | None) -> Tensor:
    """Describes a collective by eight numbers: its kind, the dtype, the number of dimensions, and the first five sizes."""
    numbers = [kind]
    if tensor is not None:
        dtype = DTYPES.index(str(tensor.dtype)) if str(tensor.dtype) in DTYPES else -1
        numbers += [dtype, tensor.dim(), *tensor.shape[:5]]
    return torch.tensor([*numbers, *[0] * (8 - len(numbers))], dtype=torch.int64, device="cpu")


def _shape(about: Tensor) -> str:
    _, dtype, count, *sizes = about.tolist()
    return f"{sizes[: min(count, 5)]} {DTYPES[dtype].removeprefix('torch.')}"


class _Announced:
    """A message that is being sent to a rank: a header, then the tensor."""

    def __init__(self, header: Any, body: Any) -> None:
        self._header, self._body = header, body

    def wait(self) -> None:
        self._header.wait()
        self._body.wait()

    def is_completed(self) -> bool:
        return bool(self._header.is_completed() and self._body.is_completed())


class _Checked:
    """A message that is being received. `wait` receives and checks the header, then receives the tensor."""

    def __init__(self, header: Any, coming: Tensor, tensors: list[Tensor], gloo: Any, source: int, tag: int) -> None:
        self._header, self._coming, self._tensors = header, coming, tensors
        self._gloo, self._source, self._tag = gloo, source, tag

    def wait(self) -> None:
        self._header.wait()
        mine = _about(P2P, self._tensors[0])
        if not torch.equal(mine, self._coming):
            raise MismatchError(
                f"recv expects {_shape(mine)} from rank {self._source}, which sends {_shape(self._coming)}; both must be the "
                "same"
            )
        self._gloo.recv(self._tensors, self._source, self._tag).wait()

    def is_completed(self) -> bool:
        return False


def join(path: str, rank: int, ranks: int, timeout: float, ledger: Ledger, *, checked: bool) -> None:
    """Add this process as `rank` to the default group of torch.distributed, which has `ranks` processes.

    The processes find each other through the file `path`.
    """
    leave()

    def make(store: Any, its_rank: int, its_ranks: int, its_timeout: timedelta) -> RecordedGroup:
        patience = timedelta(seconds=timeout)
        _groups.append(RecordedGroup(store, its_rank, its_ranks, patience, ledger, checked=checked))
        return _groups[-1]

    api.Backend.register_backend(BACKEND, make, devices="cpu")
    store = api.FileStore(path, ranks)
    store.set(f"here {rank}", "")  # the group's own timeout is too short for a rank that is still starting
    store.wait([f"here {other}" for other in range(ranks)], timedelta(seconds=MEETING_SECONDS))
    api.init_process_group(BACKEND, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=MEETING_SECONDS))


def leave() -> None:
    """Destroy the default group, if there is one."""
    _groups.clear()
    if api.is_initialized():
        api.destroy_process_group()


def is_at_rest() -> bool:
    """Whether the default group can be used for another function.

    The group can be used again if there is no other group and no collective is in progress.
    """
    return len(_groups) == 1 and _groups[0].under_way == 0
