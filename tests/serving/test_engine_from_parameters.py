"""The engine of a served model: its number of threads, and the work that it does before the first request."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import psutil
import pytest
import torch

from labkit.checkpoints import config_of
from labkit.model.quantized_kv_cache import QuantizedKVCache
from labkit.serving.python_backend.engine_from_parameters import MIXED_PREFILL, compute_threads, engine_from_parameters
from tests.refusals import refused


@pytest.mark.parametrize(
    ("model", "cores", "threads"),
    [
        ("gptj-tiny", 1, 1),
        ("gptj-tiny", 2, 1),
        ("gptj-tiny", 16, 15),
        ("gpt-j-6b", 2, 2),
        ("gpt-j-6b", 16, 15),
    ],
)
def test_a_core_is_left_to_the_server_where_it_costs_little(model: str, cores: int, threads: int) -> None:
    assert compute_threads(config_of(model), cores) == threads


def test_parameters_make_the_engine() -> None:
    given = {"model": "gptj-tiny", "max_batch": "3", "cache_bytes": str(2**28), "threads": "2"}
    gc.collect()  # otherwise the memory of earlier engines may be freed while this one takes its memory
    before, threads = psutil.Process().memory_info().rss, torch.get_num_threads()
    try:
        with engine_from_parameters(lambda name, default: given.get(name, default)) as engine:
            assert torch.get_num_threads() == 2
            assert engine.max_batch_size == 3
            assert engine._ready().scheduler.max_mixed_prefill == MIXED_PREFILL
            assert psutil.Process().memory_info().rss - before > 0.9 * 2**28, "the cache's memory is there"
    finally:
        torch.set_num_threads(threads)


def test_an_engine_with_a_quantized_cache() -> None:
    given = {"model": "gptj-tiny", "cache_bytes": str(2**24), "threads": "1", "kv_cache_dtype": "int8"}
    threads = torch.get_num_threads()
    try:
        with engine_from_parameters(lambda name, default: given.get(name, default)) as engine:
            cache = engine._ready()._cache
            assert isinstance(cache, QuantizedKVCache)
            assert 0.9 * 2**24 < cache.byte_count <= 2**24
    finally:
        torch.set_num_threads(threads)


def test_ranks_get_the_device_and_the_threads() -> None:
    given = {"model": "gptj-tiny", "tensor_parallel": "2", "device": "cuda:1"}
    with refused(["device is 'cuda:1'", "each rank needs its own GPU"]):
        engine_from_parameters(lambda name, default: given.get(name, default))
    given |= {"device": "cpu", "threads": "3", "cache_bytes": str(2**22)}
    with engine_from_parameters(lambda name, default: given.get(name, default)) as engine:
        assert engine._ready().scheduler.max_mixed_prefill == MIXED_PREFILL
        (rank,) = [child for child in psutil.Process().children() if "labkit.parallel.rank_main" in child.cmdline()]
        run = json.loads(Path(rank.cmdline()[-2], "run.json").read_text())
        assert (run["threads"], run["device"]) == (3, "cpu")
