"""Which part of a model a process holds: the layers of a stage, and a share of the heads, inner features and vocabulary.

The split of every tensor is stated here once, by the tensor's name, as in Megatron-LM (Shoeybi et al. 2019): matrices that read
the hidden state are split by output rows, matrices that write it by input columns, so that each block needs one sum over the
shards. The model, its linear layers and their quantized forms see smaller matrices and do not know about the split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from labkit.checkpoints.split import nearest_divisor
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest

BY_ROWS = ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight", "mlp.fc_in.weight", "mlp.fc_in.bias")
BY_ROWS_OF_VOCABULARY = ("wte.weight", "lm_head.weight", "lm_head.bias")
BY_COLUMNS = ("attn.out_proj.weight", "mlp.fc_out.weight")
BY_ONE = ("mlp.fc_out.bias",)
"""The first shard alone holds these, so that they are added once."""


@dataclass(frozen=True)
class Part:
    """Shard `shard` of `shards` in stage `stage` of `stages`; by default the whole model.

    Each stage holds neighbouring layers. If the layers do not divide evenly, the first stages hold one more each.
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
        """The blocks of this part."""
        return span(num_layers, self.stage, self.stages)

    def vocabulary(self, vocab_size: int) -> range:
        """The tokens whose rows of the embedding and of the head belong to this part."""
        return span(vocab_size, self.shard, self.shards)

    def heads(self, config: GPTJConfig) -> int:
        """How many attention heads this part holds; all shards hold the same number."""
        return config.num_heads // self.shards

    def slices(self, name: str, shape: tuple[int, ...]) -> Mapping[str, slice] | None:
        """The `rows` or `columns` of a whole model's tensor that belong to this part.

        An empty mapping means all of the tensor, None that nothing of it belongs to this part.
        """
        if self.shards == 1:
            return {}
        if name.endswith(BY_ONE):
            return {} if self.shard == 0 else None
        if name.endswith(BY_ROWS_OF_VOCABULARY) or name.endswith(BY_ROWS):
            return {"rows": _slice(span(shape[0], self.shard, self.shards))}
        if name.endswith(BY_COLUMNS):
            return {"columns": _slice(span(shape[1], self.shard, self.shards))}
        return {}

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if the model cannot be split this way, naming the nearest number that works."""
        if not (0 <= self.shard < self.shards and 0 <= self.stage < self.stages):
            raise InvalidRequest(
                f"{self} does not exist: shard must be 0 to {self.shards - 1}, and stage 0 to {self.stages - 1}"
            )
        nearest = nearest_divisor(self.shards, math.gcd(config.num_heads, config.intermediate_size))
        for count, what in ((config.num_heads, "heads"), (config.intermediate_size, "inner features")):
            if count % self.shards:
                raise InvalidRequest(f"tensor_parallel {self.shards} does not divide the {count} {what}; {nearest} does")
        if self.stages > config.num_layers:
            raise InvalidRequest(
                f"pipeline_parallel {self.stages} exceeds the {config.num_layers} layers; "
                f"at most {config.num_layers} is accepted, one layer for each stage"
            )


WHOLE = Part()
"""All of a model in one process."""


def span(count: int, index: int, parts: int) -> range:
    """Split `count` things into `parts` neighbouring ranges; returns range `index`. The first ranges may be longer by one."""
    size, more = divmod(count, parts)
    begin = index * size + min(index, more)
    return range(begin, begin + size + (index < more))


def _slice(stretch: range) -> slice:
    return slice(stretch.start, stretch.stop)
