"""labkit on several ranks of this host, as engines of the bench: one class for each layout."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import PRECISIONS, LabkitEngine
from labkit.checkpoints import Checkpoint
from labkit.engine.batch import Batch
from labkit.engine.kv_cache import KVCache
from labkit.parallel import Layout, start


class ParallelLabkit(LabkitEngine):
    """One layout of labkit; made by `of_layout`. Notes the share of decode steps that rank 0 spent in collectives."""

    layout = Layout()

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._graphed = None
        self._ranks = start(checkpoint, self.layout, precision)
        self._model = self._ranks.model
        self._forward = self._timed
        self._seconds = self._collectives = 0.0
        self._bytes = self._steps = 0
        self._describe(precision, device)
        self.detail += f", {self.layout.ranks} ranks"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """Those of the CPU; on a GPU none: ranks of one host's CPU are what there is."""
        return PRECISIONS[:-1] if device.type == "cpu" else ()

    def notes(self) -> dict[str, Any]:
        """`communication_share` of the decode steps' time, and `communication_bytes` of rank 0 a step."""
        if not self._steps:
            return {}
        share, size = self._collectives / self._seconds, self._bytes / self._steps
        self._seconds = self._collectives = 0.0
        self._bytes = self._steps = 0
        return {"communication_share": share, "communication_bytes": size}

    def _timed(self, batch: Batch, cache: KVCache) -> Tensor:
        started = time.perf_counter()
        logits = self._ranks(batch, cache)
        if batch.is_decode:
            self._seconds += time.perf_counter() - started
            self._collectives += sum(account.seconds for account in self._ranks.accounts)
            self._bytes += sum(account.byte_count for account in self._ranks.accounts)
            self._steps += 1
        return logits


def of_layout(layout: Layout) -> type[ParallelLabkit]:
    """The engine of a layout, called `labkit-tp2-pp1` or alike."""
    name = f"labkit-tp{layout.tensor_parallel}-pp{layout.pipeline_parallel}"
    return type("ParallelLabkit", (ParallelLabkit,), {"name": name, "layout": layout, "__doc__": f"labkit, {layout}."})
