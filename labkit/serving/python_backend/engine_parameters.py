"""From the parameters in a `config.pbtxt` to the engine that they describe."""

from __future__ import annotations

from collections.abc import Callable

import torch

from labkit.checkpoints import config_of
from labkit.config import GPTJConfig
from labkit.engine import Engine, EngineOptions, load
from labkit.engine.schedule.scheduler import MAX_BATCH_SIZE
from labkit.environment import usable_cores
from labkit.precision import as_device

MIXED_PREFILL = 16
"""Tokens of prompts in a step in which others decode, on the CPU: there each costs about what a sequence's token costs."""

SMALL_MODEL = 100_000_000
"""Parameters of a model below which a step is so short that the server's and its clients' work weighs as much."""

MANY_CORES = 8

Parameter = Callable[[str, str], str]
"""A parameter by its name, and what it is where it is not given."""


def load_engine(parameter: Parameter) -> Engine:
    """The engine of the parameters that `ServeSettings` has; sets the threads of this process.

    Raises what `labkit.load` and `labkit.parallel.load_parallel` raise, `InsufficientResources` for a cache too large.
    """
    name, precision = parameter("model", "gptj-tiny"), parameter("precision", "") or None
    options: EngineOptions = {"max_batch_size": int(parameter("max_batch", str(MAX_BATCH_SIZE)))}
    if cache_bytes := parameter("cache_bytes", ""):
        options["cache_bytes"] = int(cache_bytes)
    device, seed = parameter("device", "") or None, int(parameter("seed", "0"))
    if as_device(device).type == "cpu":
        options["max_mixed_prefill"] = MIXED_PREFILL
    shards, stages = int(parameter("tensor_parallel", "1")), int(parameter("pipeline_parallel", "1"))
    if (shards, stages) == (1, 1):
        torch.set_num_threads(int(parameter("threads", "0")) or compute_threads(config_of(name), usable_cores()))
        engine = load(name, device=device, dtype=precision, seed=seed, **options)
    else:
        from labkit.parallel import Layout, load_parallel

        engine = load_parallel(name, Layout(shards, stages), dtype=precision, seed=seed, **options)
    try:
        engine.occupy_cache()  # one that does not fit is refused now, not with the first request
    except BaseException:
        engine.close()
        raise
    return engine


def compute_threads(config: GPTJConfig, cores: int) -> int:
    """Threads for the steps of a served engine: all cores, but for one where that costs little beside what it brings.

    It is the server's, its clients' and the threads' that hand over tokens: a thread of a step that they interrupt makes
    the others wait. A large model reads its weights faster on all cores, and one of many is hardly missed.
    """
    spare = config.parameter_count < SMALL_MODEL or cores >= MANY_CORES
    return max(1, cores - spare)
