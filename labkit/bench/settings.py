"""What a benchmark is asked to run."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from labkit.bench.engines import LabkitEngine
from labkit.bench.peers import PEERS
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.parallel import Layout


@dataclass(frozen=True)
class BenchSettings:
    """What to run. `batches` are run one after the other; `against` names peers; `seconds` bounds each batch's runs,
    but `rounds` are run in any case. `precisions` are run one after the other as well; none named: what suits the device.

    one_at_a_time: build each engine alone, run all batches, free it and go on to the next, which takes the memory of one;
    done by itself when they do not fit together. tensor_parallel, pipeline_parallel: labkit on so many ranks as well, each
    number of shards with each number of stages.
    """

    model: str = "gptj-tiny"
    batches: tuple[int, ...] = (1,)
    prompt_tokens: int = 128
    new_tokens: int = 64
    precisions: tuple[str, ...] = ()
    device: str | None = None
    against: tuple[str, ...] = ("hf",)
    seed: int = 0
    seconds: float = 20.0
    rounds: int = 5
    one_at_a_time: bool = False
    tensor_parallel: tuple[int, ...] = (1,)
    pipeline_parallel: tuple[int, ...] = (1,)

    @property
    def layouts(self) -> list[Layout]:
        """Every pair of the two numbers but 1 and 1, which is run in any case."""
        pairs = itertools.product(self.tensor_parallel, self.pipeline_parallel)
        return [Layout(*pair) for pair in dict.fromkeys(pairs) if pair != (1, 1)]

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` for peers that are none, sizes that do not fit `config`, and what cannot be measured."""
        unknown = [name for name in self.against if name not in PEERS]
        if unknown:
            raise InvalidRequest(f"peer {unknown[0]!r} is not known here; {', '.join(PEERS)} is accepted")
        if LabkitEngine.name in self.against or len(set(self.against)) < len(self.against):
            raise InvalidRequest(f"peers {', '.join(self.against)}: each is named once")
        if min(self.batches, default=0) < 1 or self.prompt_tokens < 1 or self.new_tokens < 2:
            raise InvalidRequest(
                f"batch {list(self.batches)}, prompt_tokens {self.prompt_tokens}, new_tokens {self.new_tokens}: batches and "
                "prompts of at least 1 and at least 2 new tokens (one of the prefill, one of decode) are accepted"
            )
        if self.rounds < 1:
            raise InvalidRequest(f"rounds is {self.rounds}; at least 1 is accepted")
        for layout in self.layouts:
            layout.check(config)
        if not 0 < self.seconds < math.inf:
            raise InvalidRequest(f"seconds is {self.seconds}; a number above 0 is accepted")
        if self.prompt_tokens + self.new_tokens > config.context_length:
            raise InvalidRequest(
                f"{self.prompt_tokens} prompt and {self.new_tokens} new tokens exceed the context of {config.context_length}"
            )
