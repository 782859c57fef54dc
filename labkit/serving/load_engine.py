"""From the parameters in a `config.pbtxt` to the engine that they describe."""

from __future__ import annotations

from collections.abc import Callable

from labkit.engine import Engine, EngineOptions, load
from labkit.engine.scheduler import MAX_BATCH_SIZE

Parameter = Callable[[str, str], str]
"""A parameter by its name, and what it is where it is not given."""


def load_engine(parameter: Parameter) -> Engine:
    """The engine of `model`, `precision`, `device`, `seed`, `max_batch`, `cache_bytes`, `tensor_parallel`, `pipeline_parallel`.

    Raises what `labkit.load` and `labkit.parallel.load_parallel` raise, `InsufficientResources` for a cache too large.
    """
    name, precision = parameter("model", "gptj-tiny"), parameter("precision", "") or None
    options: EngineOptions = {"max_batch_size": int(parameter("max_batch", str(MAX_BATCH_SIZE)))}
    if cache_bytes := parameter("cache_bytes", ""):
        options["cache_bytes"] = int(cache_bytes)
    device, seed = parameter("device", "") or None, int(parameter("seed", "0"))
    shards, stages = int(parameter("tensor_parallel", "1")), int(parameter("pipeline_parallel", "1"))
    if (shards, stages) == (1, 1):
        engine = load(name, device=device, dtype=precision, seed=seed, **options)
    else:
        from labkit.parallel import Layout, load_parallel

        engine = load_parallel(name, Layout(shards, stages), dtype=precision, seed=seed, **options)
    try:
        _ = engine.stats  # makes the cache: one that does not fit is refused now, not with the first request
    except BaseException:
        engine.close()
        raise
    return engine
