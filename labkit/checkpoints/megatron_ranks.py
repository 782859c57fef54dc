"""Finds the tensors in the files of a Megatron or NeMo checkpoint (one archive per rank), and detects missing ranks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from labkit.checkpoints.megatron_names import one_name
from labkit.checkpoints.torch_archive import TorchArchive
from labkit.errors import CheckpointError, InvalidRequest
from labkit.plurals import counted

Ranks = dict[tuple[int, int], TorchArchive]
"""The archive of each pair (pipeline rank, tensor rank)."""


class RankArchives:
    """The archives of all ranks, by pipeline stage and tensor rank; every tensor has the name that `one_name` returns."""

    def __init__(self, label: str, ranks: Ranks, settings: Mapping[str, Any]) -> None:
        self.label = label
        self.pipeline_parallel = 1 + max(stage for stage, _ in ranks)
        self.tensor_parallel = 1 + max(rank for _, rank in ranks)
        for name, size in (("tensor", self.tensor_parallel), ("pipeline", self.pipeline_parallel)):
            said = settings.get(f"{name}_model_parallel_size") or settings.get(
                "model_parallel_size" if name == "tensor" else ""
            )
            if said is not None and said != size:
                raise CheckpointError(
                    f"{label} has files of {size} {name} ranks, but its settings say {said}; the checkpoint is incomplete"
                )
        self._archives: Ranks = {}
        self._stored: dict[tuple[int, int], dict[str, str]] = {}
        for stage in range(self.pipeline_parallel):
            for rank in range(self.tensor_parallel):
                if (stage, rank) not in ranks:
                    raise CheckpointError(
                        f"{label} lacks tensor rank {rank} of pipeline rank {stage}; the checkpoint is incomplete"
                    )
                archive = self._archives[stage, rank] = ranks[stage, rank]
                named = {stored: one_name(stored) for stored in archive.entries}
                self._stored[stage, rank] = {name: stored for stored, name in named.items() if name}
        self._layers = [self._count_layers(stage) for stage in range(self.pipeline_parallel)]

    def _count_layers(self, stage: int) -> int:
        numbers = {int(name.split(".")[1]) for name in self._stored[stage, 0] if re.match(r"layers\.\d+\.", name)}
        return 1 + max(numbers, default=-1)

    @property
    def names(self) -> set[str]:
        """The names of all tensors on all ranks."""
        return {name for stored in self._stored.values() for name in stored}

    @property
    def files(self) -> list[TorchArchive]:
        """The archives of all ranks: stage by stage, and in each stage by tensor rank."""
        return list(self._archives.values())

    @property
    def num_layers(self) -> int:
        """The number of layers on all pipeline ranks together."""
        return sum(self._layers)

    def stage_of(self, layer: int) -> tuple[int, int]:
        """The pipeline rank of a layer, and the layer's number on that rank."""
        for stage, count in enumerate(self._layers):
            if layer < count:
                return stage, layer
            layer -= count
        raise InvalidRequest(f"{self.label} has {counted(self.num_layers, 'layer')}")

    def has(self, stage: int, name: str) -> bool:
        """Whether a pipeline stage has this tensor."""
        return name in self._stored[stage, 0]

    def find(self, stage: int, rank: int, name: str) -> tuple[TorchArchive, str]:
        """The archive that holds a tensor, and its name in the archive; raises `CheckpointError` if the tensor is missing."""
        archive = self._archives[stage, rank]
        if name not in self._stored[stage, rank]:
            raise CheckpointError(f"{archive.label} lacks the weight {name} (floating point); the checkpoint is incomplete")
        return archive, self._stored[stage, rank][name]

    def shape(self, stage: int, rank: int, name: str) -> tuple[int, ...]:
        """The shape of a rank's share of a tensor."""
        archive, stored = self.find(stage, rank, name)
        return archive.entries[stored].shape

    def any_nonzero(self, part: str) -> bool:
        """Whether a vector whose name ends with `part` has a value other than zero."""
        for (stage, rank), names in self._stored.items():
            for name, stored in names.items():
                if name.endswith(part):
                    archive = self._archives[stage, rank]
                    entry = archive.entries[stored]
                    values = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
                    archive.read(stored, slice(0, entry.shape[0]), None, values)
                    if values.count_nonzero():
                        return True
        return False
