"""Benchmark engines that run labkit on several ranks of this host: one class per layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import LabkitEngine
from labkit.checkpoints import Checkpoint
from labkit.launch.ledger import COMPUTE
from labkit.model import FixedBatches, KVCache
from labkit.parallel import Layout, start_ranks
from labkit.parallel.devices import rank_device
from labkit.plurals import counted


class ParallelLabkit(LabkitEngine):
    """labkit on several ranks. `of_layout` makes the subclass for a layout of ranks.

    A batch is divided into one group of sequences per stage, so that all stages can work at the same time. The engine records
    the bytes of rank 0's collectives. On the CPU it also records the share of the decode time that rank 0 spends in
    collectives, including the time in which rank 0 waits for other ranks. On GPUs, the steps run without CUDA graphs, but
    labkit in a single process uses CUDA graphs.
    """

    layout = Layout()

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._ranks = start_ranks(checkpoint, self.layout, precision, device=device.type)
        self._model = self._ranks.model
        self._lanes: list[FixedBatches] = []
        self._prefills: set[int] = set()
        self._describe(precision, device)
        self.detail += f", {counted(self.layout.ranks, 'rank')}" + (", no CUDA graph" if device.type == "cuda" else "")

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """The precisions that labkit supports in a single process. Raises `NotAvailable` if there are fewer GPUs than ranks."""
        rank_device(cls.layout, device.type)
        return super().precisions(device)

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run the prompts, divided into one group per pipeline stage. The batches are built in host memory."""
        batch, length = prompts.shape
        room = length + new_tokens
        if self._cache is None or self._cache.num_slots < batch * room:
            model = self._model
            self._cache = KVCache(model.config, batch * room, device=model.device, dtype=model.dtype, part=model.part)
        shares = prompts.tensor_split(min(batch, self._ranks.steps_in_flight))
        self._lanes, waiting = [], []
        with self._ranks.limited_threads():
            for share in shares:
                first = sum(lane.slot_table.numel() for lane in self._lanes)
                self._lanes.append(FixedBatches(len(share), room, self._ranks.batch_device, first_slot=first))
                waiting.append(self._ranks.submit(self._lanes[-1].prefill(list(share)), self._cache))
                self._prefills.add(self._ranks.steps)
            return torch.cat([logits().argmax(-1) for logits in waiting])

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Generate `steps` tokens.

        The next step of each group of sequences starts as soon as the group's last tokens have arrived.
        """
        with self._ranks.limited_threads():
            return self._decode(tokens, steps)

    def _decode(self, tokens: Tensor, steps: int) -> Tensor:
        assert self._cache is not None
        shares = torch.split(tokens, [len(lane.lengths) for lane in self._lanes])
        waiting = [self._ranks.submit(lane.decode(share), self._cache) for lane, share in zip(self._lanes, shares, strict=True)]
        made: list[list[Tensor]] = [[] for _ in self._lanes]
        for step in range(steps):
            for number, lane in enumerate(self._lanes):
                made[number].append(waiting[number]().argmax(-1))
                if step + 1 < steps:
                    waiting[number] = self._ranks.submit(lane.decode(made[number][-1]), self._cache)
        return torch.cat([torch.stack(lane, dim=1) for lane in made])

    def notes(self) -> dict[str, Any]:
        """Return `communication_bytes`, the number of bytes that rank 0 communicates in a decode step.

        On the CPU, also return `communication_share`, the share of the decode time that rank 0 spends in collectives.
        """
        entries = [entry for entry in self._ranks.ledger() if entry.rank == 0 and entry.step not in self._prefills]
        self._prefills.clear()
        apart = [entry for entry in entries if entry.what != COMPUTE]
        inside = sum(entry.seconds for entry in apart if entry.what == "all_reduce")  # "compute" also includes this time
        busy = sum(entry.seconds for entry in entries) - inside
        steps = len({entry.step for entry in entries})
        if not steps:
            return {}
        waited, size = sum(entry.seconds for entry in apart), sum(entry.total_bytes for entry in apart)
        share = {} if self._model.device.type == "cuda" else {"communication_share": waited / busy}
        return share | {"communication_bytes": size / steps}


def of_layout(layout: Layout) -> type[ParallelLabkit]:
    """Make the engine class of a layout, with a name such as `labkit-tp2-pp1`."""
    name = f"labkit-tp{layout.tensor_parallel}-pp{layout.pipeline_parallel}"
    return type("ParallelLabkit", (ParallelLabkit,), {"name": name, "layout": layout, "__doc__": f"labkit, {layout}."})
