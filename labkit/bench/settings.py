"""The settings of a benchmark."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from labkit.bench.engines import LabkitEngine
from labkit.bench.peers import PEERS
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.model.quantized_kv_cache import check_kv_cache_dtype
from labkit.parallel import Layout

MOST_BESIDE = 1024
"""The largest number of busy processes that can run beside a benchmark."""


@dataclass(frozen=True)
class BenchSettings:
    """The engines, shapes and precisions to run. All batch sizes and precisions run one after another.

    If `precisions` is empty, the default precision of the device is used. `against` names the peers. `seconds` limits the time
    of each batch size, but at least `rounds` rounds run. With `one_at_a_time`, each engine is built, run with all batch sizes
    and freed before the next engine is built. So only one engine is in memory at a time. This also happens without
    `one_at_a_time` if the engines together do not fit into memory. `tensor_parallel` lists numbers of shards, and
    `pipeline_parallel` lists numbers of stages. labkit also runs on several ranks, once for each combination of these numbers.
    `beside` is the number of other processes that keep a core busy during the runs. labkit also runs with a KV cache in each
    format of `kv_cache_dtypes`.
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
    beside: int = 0
    kv_cache_dtypes: tuple[str, ...] = ()

    @property
    def layouts(self) -> list[Layout]:
        """Every combination of a number of shards and a number of stages.

        The combination of 1 shard and 1 stage is left out, because labkit always runs in this way.
        """
        pairs = itertools.product(self.tensor_parallel, self.pipeline_parallel)
        return [Layout(*pair) for pair in dict.fromkeys(pairs) if pair != (1, 1)]

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` for unknown peers, sizes that do not fit `config`, and settings that cannot be measured."""
        for field in ("batches", "precisions", "against", "tensor_parallel", "pipeline_parallel", "kv_cache_dtypes"):
            if not isinstance(value := getattr(self, field), tuple | list):
                raise InvalidRequest(f"{field} is {value!r}; a tuple is accepted, for example ({value!r},)")
        unknown = [name for name in self.against if name not in PEERS]
        if unknown:
            raise InvalidRequest(f"peer {unknown[0]!r} is unknown; accepted are {', '.join(PEERS)}")
        if LabkitEngine.name in self.against or len(set(self.against)) < len(self.against):
            raise InvalidRequest(f"peers {', '.join(self.against)}: name each peer once, and not labkit itself")
        for name in self.kv_cache_dtypes:
            check_kv_cache_dtype(name)
        if min(self.batches, default=0) < 1 or self.prompt_tokens < 1 or self.new_tokens < 2:
            raise InvalidRequest(
                f"batch {list(self.batches)}, prompt_tokens {self.prompt_tokens}, new_tokens {self.new_tokens}: each batch and "
                "prompt_tokens must be at least 1, and new_tokens at least 2 (one from the prefill, one from decode)"
            )
        if self.rounds < 1:
            raise InvalidRequest(f"rounds is {self.rounds}; at least 1 is accepted")
        if not 0 <= self.beside <= MOST_BESIDE:
            raise InvalidRequest(f"beside is {self.beside}; numbers from 0 to {MOST_BESIDE} are accepted")
        for layout in self.layouts:
            layout.check(config)
        if not 0 < self.seconds < math.inf:
            raise InvalidRequest(f"seconds is {self.seconds}; a number above 0 is accepted")
        if self.prompt_tokens + self.new_tokens > config.context_length:
            raise InvalidRequest(
                f"{self.prompt_tokens} prompt and {self.new_tokens} new tokens exceed the context of {config.context_length}"
            )
