"""What passes between ranks: tasks to all, sums within a stage, hidden states from stage to stage, logits.

Every kind has a group of its own, so that nobody waits for a message of another kind. Tasks and reports go through the hosts'
memory or network wherever the ranks compute; what lies on GPUs (sums, hidden states, logits) goes from GPU to GPU.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
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
from labkit.parallel.task_messages import HEADER, body_bytes

HostGroup = SharedGroup | GlooGroup
"""Some of the ranks, and what they do together in the hosts' memory."""

Group = HostGroup | NcclGroup
"""Some of the ranks, and what they do together where they compute."""

CONNECT_SECONDS = 120.0
"""In which all ranks must have started and met, GPU by GPU."""

END_SECONDS = 3.0
"""How long the end of a run may wait for NCCL, which lets go of a GPU in a moment or not at all."""

PATIENCE_SECONDS = 0.002
"""In which ranks that wait for a task have taken it, however deep they slept; those that have not are at work."""


@dataclass(frozen=True)
class Account:
    """What a group did: calls, bytes of this rank's tensors, seconds with the waiting in them."""

    calls: int
    byte_count: int
    seconds: float


def create_groups(layout: Layout, device: torch.device = CPU) -> dict[str, Path]:
    """Files for all groups of a layout that go through this host's memory, by name; who made them deletes them."""
    groups = {"tasks": SharedGroup.create(layout.ranks)}
    for stage in range(layout.pipeline_parallel if device.type == "cpu" else 0):
        if layout.tensor_parallel > 1:
            groups[f"sums {stage}"] = SharedGroup.create(layout.tensor_parallel)
        for shard in range(layout.tensor_parallel if stage else 0):
            groups[f"hidden {stage} {shard}"] = SharedGroup.create(2)  # from the stage in front
    return groups


class Links:
    """A rank's ends of the groups that it is in; `group(name, member, names)` opens one, of members so called.

    device: the rank's own. On a GPU, those that pass on what lies there are `NcclGroup`s, made from `store`, and a call of
    theirs is put on its queue. `aborted` is set once the ranks were told to stop.
    """

    def __init__(
        self,
        layout: Layout,
        rank: int,
        group: Callable[[str, int, tuple[str, ...]], HostGroup],
        *,
        device: torch.device = CPU,
        store: Any = None,
    ) -> None:
        self.layout, self.rank, self.device = layout, rank, device
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
        behind = [] if part.last else [rank, layout.rank(part.stage + 1, part.shard)]
        self.tasks = group("tasks", rank, tuple(map(layout.name, range(layout.ranks))))
        self.sums = opened(f"sums {part.stage}", part.shard, peers)
        self._before = opened(f"hidden {part.stage} {part.shard}", 1, before)
        self._behind = opened(f"hidden {part.stage + 1} {part.shard}", 0, behind)
        self._groups = {"tasks": self.tasks, "sums": self.sums, "hidden in": self._before, "hidden out": self._behind}

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
        """Through memory of this host: the files that `create_groups` made. GPUs meet at the file `meeting`."""
        api: Any = torch.distributed
        store = api.FileStore(str(meeting), layout.ranks) if device.type == "cuda" else None

        def group(name: str, member: int, names: tuple[str, ...]) -> HostGroup:
            return SharedGroup(Path(paths[name]), member, len(names), timeout=timeout, names=names)

        return cls(layout, rank, group, device=device, store=store)

    @classmethod
    def gloo(cls, layout: Layout, rank: int, store: Any, timeout: float, *, device: torch.device = CPU) -> Links:
        """Over the network: a `torch.distributed.Store` that all ranks have."""

        def group(name: str, member: int, names: tuple[str, ...]) -> HostGroup:
            return GlooGroup(store, name, member, len(names), timeout=timeout, names=names)

        return cls(layout, rank, group, device=device, store=store)

    def connect(self, patience: float = CONNECT_SECONDS) -> None:
        """Let the GPUs meet, where there are any: all ranks call it, before anything is sent. Raises `RankFailed`."""
        for group in (self.sums, self._before, self._behind):  # stages wait for the one in front: not in a circle
            if isinstance(group, NcclGroup):
                group.connect(patience)

    def send_task(self, header: Tensor, body: Tensor | None) -> None:
        """From rank 0 to all others."""
        self.tasks.broadcast(header, 0)
        if body is not None:
            self.tasks.broadcast(body, 0)

    def try_send_task(self, header: Tensor, body: Tensor) -> bool:
        """`send_task`, unless the others have not come to the last one; then nothing is sent.

        Through shared memory a task waits there until the one behind it is written, and a body of more than a slot until
        all others read it.
        """
        if isinstance(self.tasks, SharedGroup):
            if len(body) > SLOT_BYTES:
                return False
            if status := self.tasks.try_broadcast(header, 0, PATIENCE_SECONDS):
                if status == 2:
                    self.tasks.fail(status, "broadcast")
                return False
            self.tasks.broadcast(body, 0)  # who has taken the last header takes its body as well, whatever else waits
            return True
        self.send_task(header, body)
        return True

    def receive_task(self) -> tuple[Tensor, Tensor] | None:
        """The next task's header and body; None when this rank is to end. Waits for the header as long as it takes."""
        header = torch.empty(HEADER, dtype=torch.int64, device="cpu")
        self.tasks.wait_for_broadcast(header, 0)
        size = body_bytes(header)
        if size is None:
            return None
        body = torch.empty(size, dtype=torch.uint8, device="cpu")
        return header, self.tasks.broadcast(body, 0) if size else body

    def receive_hidden(self, tokens: int, hidden_size: int, dtype: torch.dtype = torch.float32) -> Tensor | None:
        """What the stage in front gave, `[tokens, hidden_size]` on the rank's device; None where there is none."""
        if self._before is None:
            return None
        return self._before.broadcast(torch.empty(tokens, hidden_size, dtype=dtype, device=self.device), 0)

    def send_hidden(self, hidden: Tensor) -> None:
        """To the same shard of the stage behind."""
        assert self._behind is not None
        self._behind.broadcast(hidden, 0)

    def gather_logits(self, logits: Tensor, vocab_size: int) -> Tensor | None:
        """Shard 0 gets `[rows, vocab_size]` of all shards' shares `[rows, share]`; the others None."""
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
        """Rank 0 gets what each rank gives; the others None."""
        size = torch.tensor([len(data)], dtype=torch.int64, device="cpu")
        sizes = self.tasks.gather(size, 0)
        longest = self.tasks.broadcast(size if sizes is None else sizes.amax(0), 0)
        padded = torch.zeros(int(longest), dtype=torch.uint8, device="cpu")
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = self.tasks.gather(padded, 0)
        if sizes is None or found is None:
            return None
        return [bytes(row[: int(size)].numpy()) for row, size in zip(found, sizes, strict=True)]

    def flush(self) -> None:
        """Until what this rank has sent is with the others."""
        for group in self._groups.values():
            if isinstance(group, GlooGroup):
                group.flush()

    def abort(self) -> None:
        """Let all waiting end, here and on the other side."""
        self.aborted.set()
        for group in self._groups.values():
            if group is not None:
                group.abort()

    def close(self) -> None:
        """Let go of what the groups hold of a GPU, and of gloo's threads; of no use behind that."""
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
        """What the group called so did since the last time; None for nothing."""
        group = self._groups[name]
        account = Account(*group.take_account()) if group is not None else None
        return account if account and account.calls else None
