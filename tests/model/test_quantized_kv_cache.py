"""An 8-bit KV cache: its values, its memory, and the native forward pass compared with one that runs single operations."""

from __future__ import annotations

import itertools

import pytest
import torch

import labkit
from labkit import native
from labkit.engine.capacity import slot_bytes
from labkit.errors import InvalidRequest, NotAvailable
from labkit.model import KVCache
from labkit.model.native_forward import NativeForward
from labkit.model.quantized_kv_cache import QuantizedKVCache, check_kv_cache_dtype
from labkit.parallel import Layout, load_parallel
from tests.native.instruction_sets import SETS
from tests.native.test_forward import models, scattered_batch
from tests.ops.test_ops import relative

CPU = torch.device("cpu")
PROMPT = "In the beginning of the year"
SPANS = [(1, 40), (1, 3), (3, 6), (9, 0), (20, 15)]
"""Pairs of the number of new tokens and of earlier tokens: decode steps, and chunks of few and of many tokens."""


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_numbers_come_back_from_the_cache(name: str) -> None:
    config = models("rotary below the head", "fp32")[1].config
    cache = QuantizedKVCache(config, 9, device=CPU, name=name, dtype=torch.float32)
    shape = (4, config.num_heads, config.head_dim)
    keys, values, slots = torch.randn(shape) * 5, torch.randn(shape), torch.tensor([7, 2, 0, 5])
    values[1] = 0
    cache.write(1, slots, keys, values)
    for found, exact in zip(cache.read(1, slots), (keys, values), strict=True):
        step = exact.abs().amax(-1, keepdim=True) * (0.5 / 127 if name == "int8" else 1 / 16)
        assert bool(((found - exact).abs() <= step * 1.001).all())
        assert 0 < relative(found, exact.double()) < (0.01 if name == "int8" else 0.04)
    numbers = cache.keys.numel() * 2
    assert cache.byte_count == numbers + numbers // config.head_dim * 4


@pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})")
@pytest.mark.parametrize("name", ["int8", "fp8"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("instruction_set", SETS)
def test_the_native_pass_reads_and_writes_the_same_cache(instruction_set: str, precision: str, name: str) -> None:
    before = native.instruction_set()
    try:
        native.use_instruction_set(instruction_set)
    except NotAvailable:
        pytest.skip(f"not measured here: a CPU without {instruction_set}")
    try:
        for shape in ("rotary below the head", "head of 32, rotary of all"):
            compare(shape, precision, name)
    finally:
        native.use_instruction_set(before)


def compare(shape: str, precision: str, name: str) -> None:
    """Compare a plain and a native pass over the same batch. Their caches start with the same random numbers."""
    _, model = models(shape, precision)
    batch, slots = scattered_batch(model, SPANS, seed=4)
    size = int(slots.max()) + 6
    caches = [model.new_cache(size, name) for _ in range(2)]
    first = caches[0]
    assert isinstance(first, QuantizedKVCache)
    for cache in caches:
        assert isinstance(cache, QuantizedKVCache)
        chooser = torch.Generator().manual_seed(8)
        cache.keys.view(torch.uint8).copy_(torch.randint(0, 120, cache.keys.shape, generator=chooser).to(torch.uint8))
        cache.values.view(torch.uint8).copy_(torch.randint(0, 120, cache.keys.shape, generator=chooser).to(torch.uint8))
        cache.key_scales.fill_(0.004 if name == "int8" else 0.002)
        cache.value_scales.fill_(0.006 if name == "int8" else 0.003)
    expected, found = model.forward(batch, caches[0]), NativeForward(model).run(batch, caches[1])
    bound = 3e-3 if precision == "fp32" else 0.03
    assert relative(found, expected.double()) < bound
    written = batch.slot_mapping
    for layer, part in itertools.product(range(model.config.num_layers), (0, 1)):
        reads = [cache.read(layer, written)[part].double() for cache in caches if isinstance(cache, QuantizedKVCache)]
        assert relative(reads[1], reads[0]) < max(bound, 0.03 if name == "fp8" else 0.004)
    others = [slot for slot in range(size) if slot not in written.tolist()]
    for one, two in ((caches[0].keys, caches[1].keys), (caches[0].values, caches[1].values)):
        assert torch.equal(one.view(torch.uint8)[:, others], two.view(torch.uint8)[:, others])


@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_nan_does_not_become_a_number_in_the_cache(name: str) -> None:
    _, model = models("rotary below the head", "fp32")
    batch, slots = scattered_batch(model, SPANS, seed=4)
    forwards = [model.forward] + ([NativeForward(model).run] if native.available() else [])
    with torch.no_grad():
        before = model.layers[0].ln_1_bias.clone()
        model.layers[0].ln_1_bias[3] = torch.nan
    try:
        for forward in forwards:
            cache = model.new_cache(int(slots.max()) + 6, name)
            forward(batch, cache)
            assert isinstance(cache, QuantizedKVCache)
            assert all(bool(part.isnan().all()) for part in cache.read(0, batch.slot_mapping))
    finally:
        with torch.no_grad():
            model.layers[0].ln_1_bias.copy_(before)


@pytest.mark.parametrize(("name", "bound"), [("int8", 0.02), ("fp8", 0.1)])
def test_an_engine_with_a_quantized_cache(name: str, bound: float) -> None:
    def logits(kv_cache_dtype: str | None) -> torch.Tensor:
        with labkit.load(device="cpu", kv_cache_dtype=kv_cache_dtype) as engine:
            assert engine.tokenizer is not None
            return engine.logits(engine.tokenizer.encode(PROMPT * 4)).float()

    dense, found = logits(None), logits(name)
    assert 0 < float((found - dense).abs().mean()) < bound * float(dense.std())


def test_generation_reuses_prefixes_and_ranks_agree() -> None:
    with labkit.load(device="cpu", kv_cache_dtype="int8") as engine:
        once = engine.generate([PROMPT] * 3)
        assert len({output.text for output in once}) == 1
        assert engine.generate(PROMPT)[0].text == once[0].text
    with load_parallel("gptj-tiny", Layout(tensor_parallel=2), kv_cache_dtype="int8") as engine:
        assert engine.generate(PROMPT)[0].text[:40] == once[0].text[:40]


def test_a_slot_takes_a_quarter_of_the_bytes() -> None:
    config = models("one head of 80", "fp32")[1].config
    wide, narrow = (slot_bytes(config, CPU, torch.float32, quantized=quantized) for quantized in (False, True))
    cache = QuantizedKVCache(config, 3, device=CPU, name="int8", dtype=torch.float32)
    assert cache.byte_count == 3 * narrow
    assert narrow == wide // 4 + 8 * config.num_layers * config.num_heads
    assert KVCache(config, 3, device=CPU, dtype=torch.float32).byte_count == 3 * wide


def test_what_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="kv_cache_dtype is 'int4'; int8, fp8 are accepted, or None"):
        labkit.load(device="cpu", kv_cache_dtype="int4")
    with pytest.raises(NotAvailable, match="GPU kernels read only the model's own dtype"):
        check_kv_cache_dtype("int8", torch.device("cuda", 0))
