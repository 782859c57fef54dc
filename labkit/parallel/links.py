"""What passes between ranks: tasks to all, sums within a stage, hidden states from stage to stage, logits.

Every kind has a group of its own, so that nobody waits for a message of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.engine.part import span
from labkit.native.shared_group import SLOT_BYTES, SharedGroup
from labkit.parallel.gloo_group import GlooGroup
from labkit.parallel.layout import Layout
from labkit.parallel.wire import HEADER, body_bytes

Group = SharedGroup | GlooGroup
"""Some of the ranks, and what they do together."""

PATIENCE_SECONDS = 0.002
"""In which ranks that wait for a task have taken it, however deep they slept; those that have not are at work."""


@dataclass(frozen=True)
class Account:
    """What a group did: calls, bytes of this rank's tensors, seconds with the waiting in them."""

    calls: int
    byte_count: int
    seconds: float


def create_groups(layout: Layout) -> dict[str, Path]:
    """Files for all groups of a layout, by name; who made them deletes them."""
    groups = {"tasks": SharedGroup.create(layout.ranks)}
    for stage in range(layout.pipeline_parallel):
        if layout.tensor_parallel > 1:
            groups[f"sums {stage}"] = SharedGroup.create(layout.tensor_parallel)
        for shard in range(layout.tensor_parallel if stage else 0):
            groups[f"hidden {stage} {shard}"] = SharedGroup.create(2)  # from the stage in front
    return groups


class Links:
    """A rank's ends of the groups that it is in; `group(name, member, names)` opens one, of members so called."""

    def __init__(self, layout: Layout, rank: int, group: Callable[[str, int, tuple[str, ...]], Group]) -> None:
        self.layout, self.rank = layout, rank
        self.part = part = layout.part(rank)

        def opened(name: str, member: int, ranks: list[int]) -> Group | None:
            return group(name, member, tuple(map(layout.name, ranks))) if len(ranks) > 1 else None

        peers = [layout.rank(part.stage, shard) for shard in range(part.shards)]
        before = [] if part.first else [layout.rank(part.stage - 1, part.shard), rank]
        behind = [] if part.last else [rank, layout.rank(part.stage + 1, part.shard)]
        self.tasks = group("tasks", rank, tuple(map(layout.name, range(layout.ranks))))
        self.sums = opened(f"sums {part.stage}", part.shard, peers)
        self._before = opened(f"hidden {part.stage} {part.shard}", 1, before)
        self._behind = opened(f"hidden {part.stage + 1} {part.shard}", 0, behind)
        self._groups = {"tasks": self.tasks, "sums": self.sums, "hidden in": self._before, "hidden out": self._behind}

    @classmethod
    def shared(cls, layout: Layout, rank: int, paths: Mapping[str, Path | str], timeout: float) -> Links:
        """Through memory of this host: the files that `create_groups` made."""

        def group(name: str, member: int, names: tuple[str, ...]) -> Group:
            return SharedGroup(Path(paths[name]), member, len(names), timeout=timeout, names=names)

        return cls(layout, rank, group)

    @classmethod
    def gloo(cls, layout: Layout, rank: int, store: Any, timeout: float) -> Links:
        """Over the network: a `torch.distributed.Store` that all ranks have."""

        def group(name: str, member: int, names: tuple[str, ...]) -> Group:
            return GlooGroup(store, name, member, len(names), timeout=timeout, names=names)

        return cls(layout, rank, group)

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
        header = torch.empty(HEADER, dtype=torch.int64)
        self.tasks.wait_for_broadcast(header, 0)
        size = body_bytes(header)
        if size is None:
            return None
        body = torch.empty(size, dtype=torch.uint8)
        return header, self.tasks.broadcast(body, 0) if size else body

    def receive_hidden(self, tokens: int, hidden_size: int) -> Tensor | None:
        """What the stage in front gave, `[tokens, hidden_size]` float32; None where there is none."""
        if self._before is None:
            return None
        return self._before.broadcast(torch.empty(tokens, hidden_size), 0)

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
        sizes = self.tasks.gather(torch.tensor([len(data)]), 0)
        longest = self.tasks.broadcast(torch.zeros(1, dtype=torch.int64) if sizes is None else sizes.amax(0), 0)
        padded = torch.zeros(int(longest), dtype=torch.uint8)
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
        for group in self._groups.values():
            if group is not None:
                group.abort()

    def take_account(self, name: str) -> Account | None:
        """What the group called so did since the last time; None for nothing."""
        group = self._groups[name]
        account = Account(*group.take_account()) if group is not None else None
        return account if account and account.calls else None
