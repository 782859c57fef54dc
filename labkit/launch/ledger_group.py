"""torch.distributed's gloo with a ledger: every collective is entered, bounded in time, and named when it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from labkit.errors import RankFailed
from labkit.parallel.ledger import Ledger

BACKEND = "labkit"
MEETING_SECONDS = 60.0
"""In which all ranks of a new group must have come."""
KINDS = (
    *("all_reduce", "broadcast", "reduce", "all_gather", "gather", "scatter", "all_to_all", "reduce_scatter", "barrier"),
    "send or recv",
)
P2P = len(KINDS) - 1
HEADERS = 1 << 20
"""Added to the tag of a message, the tag of its header."""
DTYPES = [
    f"torch.{name}"
    for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
]

api: Any = dist  # whose stubs lack most of what is used here
c10d: Any = dist.distributed_c10d


class NotedWork:
    """A collective under way; `wait` ends it and enters it."""

    def __init__(self, work: Any, done: Callable[[], None], failed: Callable[[Exception], Exception]) -> None:
        self._work, self._done, self._failed = work, done, failed
        self._ended = False

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Until it is done; raises `RankFailed` when somebody does not come in time."""
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
        """Whether it has been waited for."""
        return self._ended


class NotedGroup(api.ProcessGroup):  # type: ignore[misc]
    """A process group of this host over the loopback interface; `ledger` gets what passes through.

    `under_way` counts collectives that were begun and not waited for. checked: ranks first tell each other what they call, on
    what shape, since gloo ends a process whose tensor is not what comes in; that takes about as long as a small collective.
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

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> NotedWork:
        """The sum (or what `opts` says) of all ranks' tensors, in place."""
        return self._noted("all_reduce", tensors[0], lambda: self._gloo.allreduce(tensors, opts or c10d.AllreduceOptions()))

    def broadcast(self, tensors: list[Tensor], opts: Any) -> NotedWork:
        """What `opts.rootRank` has, to all."""
        return self._noted("broadcast", tensors[0], lambda: self._gloo.broadcast(tensors, opts), opts.rootRank)

    def reduce(self, tensors: list[Tensor], opts: Any) -> NotedWork:
        """The sum on one rank."""
        return self._noted("reduce", tensors[0], lambda: self._gloo.reduce(tensors, opts), opts.rootRank)

    def allgather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any = None) -> NotedWork:
        """All ranks' tensors, to all."""
        given = opts or c10d.AllgatherOptions()
        return self._noted("all_gather", inputs[0], lambda: self._gloo.allgather(outputs, inputs, given))

    def all_gather_single(self, output: Tensor, tensor: Tensor, opts: Any = None) -> NotedWork:
        """All ranks' tensors behind one another, to all."""
        return self.allgather([list(output.chunk(self._ranks))], [tensor])

    _allgather_base = all_gather_single

    def gather(self, outputs: list[list[Tensor]], inputs: list[Tensor], opts: Any) -> NotedWork:
        """All ranks' tensors, to one."""
        return self._noted("gather", inputs[0], lambda: self._gloo.gather(outputs, inputs, opts), opts.rootRank)

    def scatter(self, outputs: list[Tensor], inputs: list[list[Tensor]], opts: Any) -> NotedWork:
        """A tensor of one rank's list to each."""
        return self._noted("scatter", outputs[0], lambda: self._gloo.scatter(outputs, inputs, opts), opts.rootRank)

    def alltoall(self, outputs: list[Tensor], inputs: list[Tensor], opts: Any = None) -> NotedWork:
        """Each rank's tensor for each."""
        return self._noted(
            "all_to_all", inputs[0], lambda: self._gloo.alltoall(outputs, inputs, opts or c10d.AllToAllOptions())
        )

    def reduce_scatter_single(self, output: Tensor, tensor: Tensor, opts: Any) -> NotedWork:
        """Each rank its share of the sum."""
        run = getattr(self._gloo, "reduce_scatter_single", None) or self._gloo._reduce_scatter_base
        return self._noted("reduce_scatter", tensor, lambda: run(output, tensor, opts))

    _reduce_scatter_base = reduce_scatter_single

    def barrier(self, opts: Any = None) -> NotedWork:
        """Until all are here."""
        return self._noted("barrier", None, lambda: self._gloo.barrier(c10d.BarrierOptions()))

    def send(self, tensors: list[Tensor], to: int, tag: int = 0) -> NotedWork:
        """To one rank."""
        self._require(to)
        if not self._checked:
            return self._noted("send", tensors[0], lambda: self._gloo.send(tensors, to, tag), to)
        header = self._gloo.send([_about(P2P, tensors[0])], to, tag + HEADERS)
        return self._noted("send", tensors[0], lambda: _Announced(header, self._gloo.send(tensors, to, tag)), to)

    def recv(self, tensors: list[Tensor], source: int, tag: int = 0) -> NotedWork:
        """From one rank."""
        self._require(source)
        if not self._checked:
            return self._noted("recv", tensors[0], lambda: self._gloo.recv(tensors, source, tag), source)
        coming = _about(P2P, tensors[0])
        header = self._gloo.recv([coming], source, tag + HEADERS)
        return self._noted("recv", tensors[0], lambda: _Checked(header, coming, tensors, self._gloo, source, tag), source)

    def recv_anysource(self, tensors: list[Tensor], tag: int = 0) -> NotedWork:
        """From whoever sends first."""
        return self._noted("recv", tensors[0], lambda: self._gloo.recv_anysource(tensors, tag))

    def _require(self, rank: int) -> None:
        if not 0 <= rank < self._ranks:
            raise ValueError(f"there is no rank {rank}: {self._ranks} ranks are 0 to {self._ranks - 1}")

    def _compare(self, what: str, tensor: Tensor | None) -> None:
        """Raise `MismatchError` unless all ranks call this, on one shape and dtype."""
        mine = _about(KINDS.index(what), tensor)
        found = [torch.empty_like(mine) for _ in range(self._ranks)]
        self._gloo.allgather([found], [mine], c10d.AllgatherOptions()).wait()
        for rank, theirs in enumerate(found):
            if theirs[0] != mine[0]:
                other = KINDS[int(theirs[0])]
                raise MismatchError(f"rank {self._rank} calls {what} where rank {rank} calls {other}: all call the same")
            if not torch.equal(theirs, mine):
                given = f"rank {self._rank} gives {_shape(mine)}, rank {rank} {_shape(theirs)}"
                raise MismatchError(f"{what}: {given}: a collective takes one shape and dtype")

    def _noted(self, what: str, tensor: Tensor | None, start: Callable[[], Any], other: int | None = None) -> NotedWork:
        shape = () if tensor is None else tuple(tensor.shape)
        size = 0 if tensor is None else tensor.nbytes
        began = time.monotonic()

        def failed(error: Exception) -> Exception:
            waited = time.monotonic() - began
            whom = "" if other is None else f" {'to' if what == 'send' else 'from'} rank {other}"
            why = "the others did not come" if waited > 0.9 * self._seconds else str(error).splitlines()[0]
            if isinstance(error, MismatchError):
                return ValueError(str(error))
            return RankFailed(f"{what} of {list(shape)}{whom}: {why} (waited {waited:.1f} s)")

        try:
            if self._checked and what not in ("send", "recv"):
                self._compare(what, tensor)
            work = start()
        except RuntimeError as error:
            raise failed(error) from None
        self.under_way += 1

        def done() -> None:
            self.under_way -= 1
            self.ledger.note(what, began, shape=shape, byte_count=size)

        return NotedWork(work, done, failed)


_groups: list[NotedGroup] = []
"""The default group, and those that the function has made."""


class MismatchError(RuntimeError):
    """Ranks do not call the same collective on tensors that fit."""


def _about(kind: int, tensor: Tensor | None) -> Tensor:
    """A collective in eight numbers: which, of what dtype, how many dimensions, and their sizes."""
    numbers = [kind]
    if tensor is not None:
        dtype = DTYPES.index(str(tensor.dtype)) if str(tensor.dtype) in DTYPES else -1
        numbers += [dtype, tensor.dim(), *tensor.shape[:5]]
    return torch.tensor([*numbers, *[0] * (8 - len(numbers))], dtype=torch.int64, device="cpu")


def _shape(about: Tensor) -> str:
    _, dtype, count, *sizes = about.tolist()
    return f"{sizes[: min(count, 5)]} {DTYPES[dtype].removeprefix('torch.')}"


class _Announced:
    """What goes to a rank behind its header."""

    def __init__(self, header: Any, body: Any) -> None:
        self._header, self._body = header, body

    def wait(self) -> None:
        self._header.wait()
        self._body.wait()

    def is_completed(self) -> bool:
        return bool(self._header.is_completed() and self._body.is_completed())


class _Checked:
    """What comes from a rank, once it is seen that it fits."""

    def __init__(self, header: Any, coming: Tensor, tensors: list[Tensor], gloo: Any, source: int, tag: int) -> None:
        self._header, self._coming, self._tensors = header, coming, tensors
        self._gloo, self._source, self._tag = gloo, source, tag

    def wait(self) -> None:
        self._header.wait()
        mine = _about(P2P, self._tensors[0])
        if not torch.equal(mine, self._coming):
            raise MismatchError(
                f"recv of {_shape(mine)} from rank {self._source}, which sends {_shape(self._coming)}: these must be the same"
            )
        self._gloo.recv(self._tensors, self._source, self._tag).wait()

    def is_completed(self) -> bool:
        return False


def join(path: str, rank: int, ranks: int, timeout: float, ledger: Ledger, *, checked: bool) -> None:
    """Make `ranks` processes the default group of torch.distributed, its ledger `ledger`; they meet at a file."""
    leave()

    def make(store: Any, its_rank: int, its_ranks: int, its_timeout: timedelta) -> NotedGroup:
        patience = timedelta(seconds=timeout)
        _groups.append(NotedGroup(store, its_rank, its_ranks, patience, ledger, checked=checked))
        return _groups[-1]

    api.Backend.register_backend(BACKEND, make, devices="cpu")
    store = api.FileStore(path, ranks)
    store.set(f"here {rank}", "")  # the group's own time-out is too short for whoever is just starting
    store.wait([f"here {other}" for other in range(ranks)], timedelta(seconds=MEETING_SECONDS))
    api.init_process_group(BACKEND, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=MEETING_SECONDS))


def leave() -> None:
    """The default group is no more."""
    _groups.clear()
    if api.is_initialized():
        api.destroy_process_group()


def is_at_rest() -> bool:
    """Whether the default group can serve another function: the only one, with nothing under way."""
    return len(_groups) == 1 and _groups[0].under_way == 0
