"""How many ranks hold a model, and which part each rank holds. A layout is checked before a process is started."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.launch.processes import MOST_RANKS
from labkit.model.part import Part


@dataclass(frozen=True)
class Layout:
    """How ranks divide a model: into `pipeline_parallel` stages, and every stage into `tensor_parallel` shards.

    Rank 0 plans the steps and holds shard 0 of the last stage, where the logits are computed and tokens are chosen. So the last
    stage has the lowest rank numbers, and the shards of one stage have consecutive ranks.
    """

    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def ranks(self) -> int:
        """The number of processes."""
        return self.tensor_parallel * self.pipeline_parallel

    def part(self, rank: int) -> Part:
        """The part that a rank holds."""
        stage = self.pipeline_parallel - 1 - rank // self.tensor_parallel
        return Part(rank % self.tensor_parallel, self.tensor_parallel, stage, self.pipeline_parallel)

    def rank(self, stage: int, shard: int) -> int:
        """The rank that holds the shard `shard` of the stage `stage`."""
        return (self.pipeline_parallel - 1 - stage) * self.tensor_parallel + shard

    def name(self, rank: int) -> str:
        """The name of a rank in messages: its number and its part."""
        part = self.part(rank)
        held = [f"shard {part.shard} of {part.shards}"] if part.shards > 1 else []
        held += [f"stage {part.stage} of {part.stages}"] if part.stages > 1 else []
        return f"rank {rank} ({', '.join(held)})" if held else f"rank {rank}"

    def failure(self, rank: int, host: str, step: int, cause: str) -> str:
        """The message about a rank that failed; step: the last step that the rank began, or 0 before the first step."""
        where = f"at step {step}" if step else "before its first step"
        return f"{self.name(rank)} on {host} failed {where}: {cause}"

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest`, which suggests a number that works, if this config's model cannot be split this way."""
        for count, name in ((self.tensor_parallel, "tensor_parallel"), (self.pipeline_parallel, "pipeline_parallel")):
            if not isinstance(count, int) or count < 1:
                raise InvalidRequest(f"{name} is {count!r}; a whole number of at least 1 is accepted")
        if self.ranks > MOST_RANKS:
            raise InvalidRequest(
                f"tensor_parallel {self.tensor_parallel} x pipeline_parallel {self.pipeline_parallel} makes {self.ranks} "
                f"ranks; at most {MOST_RANKS} ranks are accepted"
            )
        self.part(0).check(config)
