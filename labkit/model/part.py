"""Which part of a model a process holds: the layers of a stage; a share of the heads, inner features and vocabulary.

The split of every tensor is stated here once, by its name, as Megatron-LM has it (Shoeybi et al. 2019): what reads the whole
hidden state is cut by output rows, what writes it by input columns, so that a block needs one sum over the shards. The
model, its linear layers and their quantized forms see smaller matrices and nothing of the split.
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
"""Added once: it belongs to the first shard."""


@dataclass(frozen=True)
class Part:
    """Shard `shard` of `shards` of stage `stage` of `stages`; as it stands, the whole model.

    Stages hold neighbouring layers, the first ones one more each where they do not come out even.
    """

    shard: int = 0
    shards: int = 1
    stage: int = 0
    stages: int = 1

    @property
    def first(self) -> bool:
        """Whether it begins with the embedding."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether it ends with the head."""
        return self.stage == self.stages - 1

    def layers(self, num_layers: int) -> range:
        """The blocks it holds."""
        return span(num_layers, self.stage, self.stages)

    def vocabulary(self, vocab_size: int) -> range:
        """The tokens whose rows of the embedding and of the head it holds."""
        return span(vocab_size, self.shard, self.shards)

    def heads(self, config: GPTJConfig) -> int:
        """The attention heads it holds; all shards have as many."""
        return config.num_heads // self.shards

    def slices(self, name: str, shape: tuple[int, ...]) -> Mapping[str, slice] | None:
        """Which `rows` or `columns` of a tensor of the whole model it holds (nothing named: all); None for none of it."""
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
        """Raise `InvalidRequest` when the model cannot be cut this way, with the numbers and the nearest that can be."""
        if not (0 <= self.shard < self.shards and 0 <= self.stage < self.stages):
            raise InvalidRequest(f"part {self} is none of its own shards and stages; both count from 0")
        nearest = nearest_divisor(self.shards, math.gcd(config.num_heads, config.intermediate_size))
        for count, what in ((config.num_heads, "heads"), (config.intermediate_size, "inner features")):
            if count % self.shards:
                raise InvalidRequest(f"tensor_parallel {self.shards} does not divide the {count} {what}; {nearest} does")
        if self.stages > config.num_layers:
            raise InvalidRequest(
                f"pipeline_parallel {self.stages} exceeds the {config.num_layers} layers; "
                f"at most {config.num_layers} is accepted, a layer a stage"
            )


WHOLE = Part()
"""All of a model in one process."""


def span(count: int, index: int, parts: int) -> range:
    """The `index`-th of `parts` neighbouring stretches of `count` things; the first ones hold one more than the others."""
    size, more = divmod(count, parts)
    begin = index * size + min(index, more)
    return range(begin, begin + size + (index < more))


def _slice(stretch: range) -> slice:
    return slice(stretch.start, stretch.stop)
