"""Loads the engine that the parameters of a `config.pbtxt` describe."""

from __future__ import annotations

from collections.abc import Callable

import torch

from labkit.checkpoints import config_of
from labkit.config import GPTJConfig
from labkit.engine import Engine, EngineOptions, load
from labkit.engine.schedule.scheduler import MAX_BATCH_SIZE
from labkit.host_cores import usable_cores
from labkit.precision import as_device

MIXED_PREFILL = 16
"""The largest number of prompt tokens that a step on a CPU computes if the step also decodes.

On a CPU, a prompt token takes about as long as a decoded token.
"""

SMALL_MODEL = 100_000_000
"""If a model has fewer parameters than this, the server and its clients need about as much time for a step as the engine."""

MANY_CORES = 8

Parameter = Callable[[str, str], str]
"""A function that returns the value of the parameter with a given name, or else a given default."""


def engine_from_parameters(parameter: Parameter) -> Engine:
    """Load the engine for the parameters of `ServeSettings`; also sets the number of torch threads of this process.

    Raises the same errors as `labkit.load` and `labkit.parallel.load_parallel`, and `InsufficientResources` if the cache is too
    large.
    """
    name, precision = parameter("model", "gptj-tiny"), parameter("precision", "") or None
    options: EngineOptions = {"max_batch_size": int(parameter("max_batch", str(MAX_BATCH_SIZE)))}
    if cache_bytes := parameter("cache_bytes", ""):
        options["cache_bytes"] = int(cache_bytes)
    if kv_cache_dtype := parameter("kv_cache_dtype", ""):
        options["kv_cache_dtype"] = kv_cache_dtype
    device, seed = parameter("device", "") or None, int(parameter("seed", "0"))
    threads = int(parameter("threads", "0")) or None
    shards, stages = int(parameter("tensor_parallel", "1")), int(parameter("pipeline_parallel", "1"))
    has_ranks = (shards, stages) != (1, 1)
    on_cpu = device in (None, "cpu") if has_ranks else as_device(device).type == "cpu"
    if on_cpu:
        options["max_mixed_prefill"] = MIXED_PREFILL
    if has_ranks:
        from labkit.parallel import Layout, load_parallel

        layout = Layout(shards, stages)
        engine = load_parallel(name, layout, device=device, dtype=precision, seed=seed, threads=threads, **options)
    else:
        torch.set_num_threads(threads or compute_threads(config_of(name), usable_cores()))
        engine = load(name, device=device, dtype=precision, seed=seed, **options)
    try:
        engine.occupy_cache()  # a cache that does not fit fails now, not at the first request
    except BaseException:
        engine.close()
        raise
    return engine


def compute_threads(config: GPTJConfig, cores: int) -> int:
    """The number of threads for the steps of a served engine: one per core, or one fewer, so that one core is spare.

    The spare core is for the server, its clients and the threads that send tokens. If another thread interrupts a thread of a
    step, the step's other threads wait for the interrupted thread. A large model on few cores uses all cores, because more
    threads read its weights faster.
    """
    spare = config.parameter_count < SMALL_MODEL or cores >= MANY_CORES
    return max(1, cores - spare)
