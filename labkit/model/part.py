"""Defines the part of a model that one process holds: a stage's layers, and a share of heads, inner features and vocabulary.

`checkpoints/split.py` says how each tensor is split. The model, its linear layers and their quantized forms only see smaller
matrices and do not know about the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labkit.checkpoints.split import Split, nearest_tensor_parallel, share_of, span, split_of
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest


@dataclass(frozen=True)
class Part:
    """One part of a model: shard number `shard` of `shards`, in stage number `stage` of `stages`.

    The default is the whole model. A stage holds consecutive layers. If the layers do not divide evenly, each of the first
    stages holds one layer more.
    """

    shard: int = 0
    shards: int = 1
    stage: int = 0
    stages: int = 1

    @property
    def first(self) -> bool:
        """Whether this part begins with the embedding."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether this part ends with the head."""
        return self.stage == self.stages - 1

    def layers(self, num_layers: int) -> range:
        """The layers of this part."""
        return span(num_layers, self.stage, self.stages)

    def vocabulary(self, vocab_size: int) -> range:
        """The token ids whose rows in the embedding and in the head belong to this part."""
        return span(vocab_size, self.shard, self.shards)

    def heads(self, config: GPTJConfig) -> int:
        """The number of attention heads of this part, which is the same for all shards."""
        return config.num_heads // self.shards

    def slices(self, name: str, shape: tuple[int, ...]) -> Mapping[str, slice] | None:
        """Return the slice of `rows` or `columns` of a whole tensor that belongs to this part.

        An empty mapping means the whole tensor. None means that no slice of the tensor belongs to the part.
        """
        if split_of(name) is Split.ONCE and self.shard:
            return None
        return share_of(name, shape, self.shard, self.shards)

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if the model cannot be split this way. The error names a number of shards or stages to use."""
        if not (0 <= self.shard < self.shards and 0 <= self.stage < self.stages):
            raise InvalidRequest(f"{self} does not exist: shard must be from 0 to shards - 1, and stage from 0 to stages - 1")
        nearest = nearest_tensor_parallel(config, self.shards)
        for count, what in ((config.num_heads, "heads"), (config.intermediate_size, "inner features")):
            if count % self.shards:
                raise InvalidRequest(f"tensor_parallel {self.shards} does not divide the {count} {what}; {nearest} does")
        if self.stages > config.num_layers:
            raise InvalidRequest(
                f"pipeline_parallel {self.stages} exceeds the {config.num_layers} layers; "
                f"at most {config.num_layers} is accepted, one layer per stage"
            )


WHOLE = Part()
"""The whole model in one process."""
