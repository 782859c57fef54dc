"""The connections between ranks. They carry tasks to all ranks, sums within a stage, hidden states between stages, and logits.

Each kind of data has its own group, so that no rank waits for data of another kind. Tasks and reports always go through the
host's memory or the network. Data on GPUs (sums, hidden states, logits) goes from GPU to GPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.split import span
from labkit.native.shared_group import SLOT_BYTES, SharedGroup
from labkit.parallel.devices import CPU
from labkit.parallel.gloo_group import GlooGroup
from labkit.parallel.layout import Layout
from labkit.parallel.nccl_group import NcclGroup
from labkit.parallel.task_messages import HEADER_WORDS, Header, StopHeader, decode_header, encode_header

HostGroup = SharedGroup | GlooGroup
"""A group of ranks that exchange data in the memory of the host, or over the network."""

Group = HostGroup | NcclGroup
"""A group of ranks that exchange data on the device on which they compute."""

CONNECT_SECONDS = 120.0
"""All GPUs must connect to each other within this many seconds."""

END_SECONDS = 3.0
"""How many seconds `close` waits for NCCL to release a GPU at the end of a run. NCCL releases a GPU either at once or never."""

PATIENCE_SECONDS = 0.002
"""A rank that waits for a task takes the task within this many seconds, even if the rank was asleep.

A rank that needs more time is still computing.
"""


@dataclass(frozen=True)
class Account:
    """The work of a group: the number of calls, the bytes of this rank's tensors, and the seconds that the calls took.

    The seconds include the time spent waiting.
    """

    calls: int
    byte_count: int
    seconds: float


def create_groups(layout: Layout, device: torch.device = CPU) -> dict[str, Path]:
    """Create the shared files of all groups that use this host's memory. Returns the path for each name of a group.

    The caller deletes the files. Raises `InsufficientResources`, and leaves no file, if there is not enough shared memory.
    """
    members = {"tasks": layout.ranks}
    for stage in range(layout.pipeline_parallel if device.type == "cpu" else 0):
        if layout.tensor_parallel > 1:
            members[f"sums {stage}"] = layout.tensor_parallel
        for shard in range(layout.tensor_parallel if stage else 0):
            members[f"hidden {stage} {shard}"] = 2  # from the previous stage
    groups: dict[str, Path] = {}
    try:
        for name, count in members.items():
            groups[name] = SharedGroup.create(count)
    except BaseException:
        delete_files(groups.values())
        raise
    return groups


def delete_files(files: Iterable[Path]) -> None:
    """Delete the files, if they exist."""
    for file in files:
        file.unlink(missing_ok=True)


class Links:
    """The groups to which a rank belongs. `group(name, member, names)` opens a group; `names` are the names of its members.

    device: the device of this rank. On a GPU, the groups for data on GPUs are `NcclGroup`s, made from `store`; their calls are
    put on the GPU's queue. timeout: how many seconds this rank waits for other ranks inside a pass. `aborted` is set when the
    ranks are told to stop.
    """

    def __init__(
        self,
        layout: Layout,
        rank: int,
        group: Callable[[str, int, tuple[str, ...]], HostGroup],
        *,
        timeout: float,
        device: torch.device = CPU,
        store: Any = None,
    ) -> None:
        self.layout, self.rank, self.timeout, self.device = layout, rank, timeout, device
        self.part = part = layout.part(rank)
        self.aborted = threading.Event()

        def opened(name: str, member: int, ranks: list[int]) -> Group | None:
            names = tuple(map(layout.name, ranks))
            if len(ranks) < 2:
                return None
            if device.type == "cuda":
                return NcclGroup(store, name, member, len(ranks), device=device, names=names)
            return group(name, member, names)

        peers = [layout.rank(part.stage, shard) for shard in range(part.shards)]
        before = [] if part.first else [layout.rank(part.stage - 1, part.shard), rank]
        after = [] if part.last else [rank, layout.rank(part.stage + 1, part.shard)]
        self.tasks = group("tasks", rank, tuple(map(layout.name, range(layout.ranks))))
        self.sums = opened(f"sums {part.stage}", part.shard, peers)
        self._before = opened(f"hidden {part.stage} {part.shard}", 1, before)
        self._after = opened(f"hidden {part.stage + 1} {part.shard}", 0, after)
        self._groups = {"tasks": self.tasks, "sums": self.sums, "hidden in": self._before, "hidden out": self._after}

    @classmethod
    def shared(
        cls,
        layout: Layout,
        rank: int,
        paths: Mapping[str, Path | str],
        timeout: float,
        *,
        device: torch.device = CPU,
        meeting: Path | None = None,
    ) -> Links:
        """Links through this host's memory, with the files from `create_groups`.

        GPUs find each other through the file `meeting`.
        """
        api: Any = torch.distributed
        store = api.FileStore(str(meeting), layout.ranks) if device.type == "cuda" else None

        def group(name: str, member: int, names: tuple[str, ...]) -> HostGroup:
            return SharedGroup(Path(paths[name]), member, len(names), timeout=timeout, names=names)

        return cls(layout, rank, group, timeout=timeout, device=device, store=store)

    @classmethod
    def gloo(cls, layout: Layout, rank: int, store: Any, timeout: float, *, device: torch.device = CPU) -> Links:
        """Links over the network. All ranks find each other through a `torch.distributed.Store`."""

        def group(name: str, member: int, names: tuple[str, ...]) -> HostGroup:
            return GlooGroup(store, name, member, len(names), timeout=timeout, names=names)

        return cls(layout, rank, group, timeout=timeout, device=device, store=store)

    def connect(self, patience: float = CONNECT_SECONDS) -> None:
        """Connect the GPUs, if any. All ranks call `connect` before they send data. Raises `RankFailed` after `patience` s."""
        # Each stage waits only for the previous stage, so the stages never wait in a circle.
        for group in (self.sums, self._before, self._after):
            if isinstance(group, NcclGroup):
                group.connect(patience)

    def send_task(self, header: Header, body: Tensor | None = None) -> None:
        """Send a task from rank 0 to all other ranks."""
        self.tasks.broadcast(encode_header(header, 0 if body is None else len(body)), 0)
        if body is not None:
            self.tasks.broadcast(body, 0)

    def try_send_task(self, header: Header, body: Tensor) -> bool:
        """Send a task if the other ranks have taken the previous task.

        If they have not taken the previous task, send nothing and return False.

        In shared memory a task stays until the next task is written. If a body is larger than a slot of that memory, this call
        returns only when all other ranks have read the body.
        """
        if isinstance(self.tasks, SharedGroup):
            if len(body) > SLOT_BYTES:
                return False
            if status := self.tasks.try_broadcast(encode_header(header, len(body)), 0, PATIENCE_SECONDS):
                if status == 2:
                    self.tasks.fail(status, "broadcast")
                return False
            self.tasks.broadcast(body, 0)  # a rank that took the header next takes the body
            return True
        self.send_task(header, body)
        return True

    def receive_task(self) -> tuple[Header, Tensor] | None:
        """The header and body of the next task; None if this rank must end. Waits for the header without a time limit."""
        words = torch.empty(HEADER_WORDS, dtype=torch.int64, device="cpu")
        self.tasks.wait_for_broadcast(words, 0)
        header, size = decode_header(words)
        if isinstance(header, StopHeader):
            return None
        body = torch.empty(size, dtype=torch.uint8, device="cpu")
        return header, self.tasks.broadcast(body, 0) if size else body

    def receive_hidden(self, tokens: int, hidden_size: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """The hidden states from the previous stage, `[tokens, hidden_size]` on this rank's device; None on the first stage."""
        if self._before is None:
            return None
        return self._before.broadcast(torch.empty(tokens, hidden_size, dtype=dtype, device=self.device), 0)

    def send_hidden(self, hidden: Tensor) -> None:
        """Send hidden states to the same shard of the next stage."""
        assert self._after is not None
        self._after.broadcast(hidden, 0)

    def gather_logits(self, logits: Tensor, vocab_size: int) -> Tensor | None:
        """On shard 0, return the logits `[rows, vocab_size]`, concatenated from the columns `[rows, share]` of each shard.

        The result is None on the other shards.
        """
        if self.sums is None:
            return logits
        shards = self.part.shards
        widest = len(span(vocab_size, 0, shards))
        padded = logits if logits.shape[1] == widest else torch.nn.functional.pad(logits, (0, widest - logits.shape[1]))
        gathered = self.sums.gather(padded.contiguous(), 0)
        if gathered is None:
            return None
        return torch.cat([part[:, : len(span(vocab_size, shard, shards))] for shard, part in enumerate(gathered)], dim=1)

    def gather_bytes(self, data: bytes) -> list[bytes] | None:
        """Return the bytes of every rank on rank 0, and None on the other ranks."""
        size = torch.tensor([len(data)], dtype=torch.int64, device="cpu")
        sizes = self.tasks.gather(size, 0)
        longest = self.tasks.broadcast(size if sizes is None else sizes.amax(0), 0)
        padded = torch.zeros(int(longest), dtype=torch.uint8, device="cpu")
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = self.tasks.gather(padded, 0)
        if sizes is None or found is None:
            return None
        return [bytes(row[: int(size)].numpy()) for row, size in zip(found, sizes, strict=True)]

    def flush(self, patience: float) -> None:
        """Wait until the other ranks have received everything that this rank has sent.

        Raises `RankFailed` if a broadcast is not received within `patience` seconds.
        """
        for group in self._groups.values():
            if isinstance(group, GlooGroup):
                group.flush(patience)

    def abort(self) -> None:
        """Make all waiting calls fail, on this rank and on the other ranks."""
        self.aborted.set()
        for group in self._groups.values():
            if group is not None:
                group.abort()

    def close(self) -> None:
        """Release the GPU resources of the groups, and end gloo's threads. The links cannot be used after `close`."""
        on_gpu = [group for group in self._groups.values() if isinstance(group, NcclGroup)]
        for group in on_gpu:
            group.abort()
        until = time.monotonic() + END_SECONDS
        for group in on_gpu:
            group.join(max(0.0, until - time.monotonic()))
        for each in self._groups.values():
            if isinstance(each, GlooGroup):
                each.close()

    def take_account(self, name: str) -> Account | None:
        """The account of the group `name` since the last call of `take_account`; None if the group did nothing."""
        group = self._groups[name]
        account = Account(*group.take_account()) if group is not None else None
        return account if account and account.calls else None
