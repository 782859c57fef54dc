"""Captured decode steps on a GPU give the logits of the plain model and the tokens of transformers, and write to no other
sequence's slots.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from labkit import ops
from labkit.checkpoints import open_checkpoint
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.model import GPTJ, FixedBatches, KVCache
from labkit.model.cuda_graph import GraphedGPTJ
from labkit.model.weight_store import read_model
from labkit.ops import Fp8Weight, Int4Weight, Int8Weight
from tests.models import SHAPES, peer_greedy, random_peer, random_prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU that torch can use"),
]
DEVICE = torch.device("cuda", 0)
CAPACITY = 24
BOUNDS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Decoding:
    """Prefilled sequences in a cache. Unused slots are filled with NaN, and no sequence owns the last slot of the cache."""

    def __init__(self, lengths: list[int], shape: str = "head of 256", dtype: torch.dtype = torch.float32) -> None:
        self.peer = random_peer(shape, 3)
        weights = self.peer.state_dict()
        config = GPTJConfig.from_dict(self.peer.config.to_dict())
        self.model = GPTJ.from_tensors(config, lambda name: weights[name].detach().to(DEVICE, dtype))
        self.padding = len(lengths) * CAPACITY
        self.graphed = GraphedGPTJ(self.model, self.padding)
        self.prompts = random_prompts(config.vocab_size, lengths, 3)
        self.start()

    def start(self) -> None:
        """Prefill the sequences again, in a new cache."""
        self.cache = KVCache(self.model.config, self.padding + 1, device=DEVICE, dtype=self.model.dtype)
        self.cache.keys.fill_(math.nan)
        self.cache.values.fill_(math.nan)
        self.batches = FixedBatches(len(self.prompts), CAPACITY, DEVICE)
        batch = self.batches.prefill([torch.tensor(prompt) for prompt in self.prompts])
        self.tokens = self.graphed.forward(batch, self.cache).argmax(-1)

    def peer_tokens(self, steps: int) -> list[list[int]]:
        return [peer_greedy(self.peer, prompt, steps + 1, eos_token_id=None)[1:] for prompt in self.prompts]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("lengths", [[7], [5, 1, 9], [3] * 16, list(range(1, 18))])
def test_replays_give_the_plain_models_logits(lengths: list[int], dtype: torch.dtype) -> None:
    captured, plain = Decoding(lengths, dtype=dtype), Decoding(lengths, dtype=dtype)
    for _ in range(5):
        found = captured.graphed.forward(captured.batches.decode(captured.tokens), captured.cache)
        expected = plain.model.forward(plain.batches.decode(captured.tokens), plain.cache)
        assert found.shape == expected.shape
        assert bool(found.isfinite().all())
        assert relative(found, expected) < BOUNDS[dtype]
        captured.tokens = expected.argmax(-1)
    written = captured.cache.keys[:, :-1], plain.cache.keys[:, :-1]
    assert torch.equal(written[0].isnan(), written[1].isnan()), "a slot that no sequence holds was written"
    assert len([bucket for bucket in captured.graphed._steps if isinstance(bucket, int)]) == 1


@pytest.mark.parametrize("dtype", BOUNDS)
def test_short_prefills_are_replayed_and_give_the_plain_models_logits(dtype: torch.dtype) -> None:
    captured, plain = Decoding([5, 1, 9], dtype=dtype), Decoding([5, 1, 9], dtype=dtype)
    vocab = captured.model.config.vocab_size
    for number, counts in enumerate([[3, 1, 6], [1, 2, 1], [4, 4, 2]]):
        prompts = [torch.tensor(tokens) for tokens in random_prompts(vocab, counts, number)]
        found = captured.graphed.forward(captured.batches.prefill(prompts), captured.cache)
        expected = plain.model.forward(plain.batches.prefill(prompts), plain.cache)
        assert found.shape == expected.shape
        assert bool(found.isfinite().all())
        assert relative(found, expected) < BOUNDS[dtype]
    written = captured.cache.keys[:, :-1], plain.cache.keys[:, :-1]
    assert torch.equal(written[0].isnan(), written[1].isnan()), "a slot that no sequence holds was written"
    assert set(captured.graphed._steps) == {(4, 16)}


@pytest.mark.parametrize("quantize", [None, Int8Weight.quantize, Fp8Weight.quantize])
@pytest.mark.parametrize("counts", [[40], [130, 7], [300], [500]])
def test_prefills_of_several_blocks_are_replayed(counts: list[int], quantize) -> None:  # type: ignore[no-untyped-def]
    if quantize is Fp8Weight.quantize and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("not measured here: FP8 needs a GPU of compute capability 8.9 or above")
    model = read_model(open_checkpoint("gptj-tiny"), "fp16", DEVICE)
    if quantize:
        layers = []
        for layer in model.layers:
            parts = {name: getattr(layer, name) for name in ("qkv", "fc_in", "fc_out")}
            layers.append(replace(layer, **{name: replace(part, weight=quantize(part.weight)) for name, part in parts.items()}))
        model = model.with_layers(layers)
    prompts = [torch.tensor(tokens) for tokens in random_prompts(model.config.vocab_size, counts, 5)]
    logits = []
    for forward in (GraphedGPTJ(model, 0).forward, model.forward):
        cache = KVCache(model.config, 1 + len(counts) * 512, device=DEVICE, dtype=model.dtype)
        cache.keys.fill_(math.nan)
        cache.values.fill_(math.nan)
        batches = FixedBatches(len(counts), 512, DEVICE, first_slot=1)
        logits.append(forward(batches.prefill(prompts), cache))
    assert bool(logits[1].isfinite().all())
    assert relative(*logits) < 4e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_transformers(shape: str) -> None:
    decoding = Decoding([4, 1, 11], shape)
    made = decoding.graphed.decode_greedy(decoding.batches.decode(decoding.tokens), decoding.cache, 12)
    assert made.tolist() == decoding.peer_tokens(12)
    decoding.start()
    made = decoding.graphed.decode_greedy(decoding.batches.decode(decoding.tokens), decoding.cache, 12)
    assert made.tolist() == decoding.peer_tokens(12), "another cache was not seen"


def test_greedy_steps_do_not_wait_for_the_device() -> None:
    decoding = Decoding([4, 1])
    decoding.graphed.capture(decoding.cache, [2], greedy=True)
    batch = decoding.batches.decode(decoding.tokens)
    decoding.graphed.decode_greedy(batch, decoding.cache, 2)
    decoding.start()
    decoding.graphed.capture(decoding.cache, [2], greedy=True)
    inputs = decoding.graphed._inputs
    inputs.load(decoding.batches.decode(decoding.tokens))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            decoding.graphed._greedy_steps[2].replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert inputs.made(2, 8).tolist() == decoding.peer_tokens(8)


def test_graphs_of_all_buckets_share_their_memory() -> None:
    decoding = Decoding([3] * 3)
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    decoding.graphed.capture(decoding.cache)
    every = torch.cuda.memory_reserved() - before
    assert {bucket for bucket in decoding.graphed._steps if isinstance(bucket, int)} == set(decoding.graphed.buckets)
    assert every < 256 * 2**20
    expected = decoding.peer_tokens(1)
    logits = decoding.graphed.forward(decoding.batches.decode(decoding.tokens), decoding.cache)
    assert logits.argmax(-1)[:, None].tolist() == expected


def test_logits_outlive_the_next_step() -> None:
    decoding = Decoding([5, 2])
    first = decoding.graphed.forward(decoding.batches.decode(decoding.tokens), decoding.cache)
    kept = first.clone()
    decoding.graphed.forward(decoding.batches.decode(first.argmax(-1)), decoding.cache)
    assert torch.equal(first, kept)


def test_swapped_operations_run() -> None:
    decoding = Decoding([5, 2])
    decoding.graphed.forward(decoding.batches.decode(decoding.tokens), decoding.cache)
    calls = []

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(len(x))
        return torch.nn.functional.linear(x, weight, bias)

    with ops.use(linear=linear):
        decoding.graphed.forward(decoding.batches.decode(decoding.tokens), decoding.cache)
    assert set(calls) == {2}


@pytest.mark.parametrize("quantize", [Int8Weight.quantize, Int4Weight.quantize])
def test_quantized_weights_are_captured(quantize) -> None:  # type: ignore[no-untyped-def]
    decoding = Decoding([4, 1, 11])
    weights = decoding.peer.state_dict()
    model = GPTJ.from_tensors(
        decoding.model.config,
        lambda name: weights[name].detach().to(DEVICE, torch.float16),
        lambda name, dense: quantize(dense),
    )
    caches = [KVCache(model.config, decoding.padding + 1, device=DEVICE, dtype=torch.float16) for _ in range(2)]
    graphed = GraphedGPTJ(model, decoding.padding)
    logits = []
    for cache, forward in zip(caches, (model.forward, graphed.forward), strict=True):
        batches = FixedBatches(3, CAPACITY, DEVICE)
        forward(batches.prefill([torch.tensor(prompt) for prompt in decoding.prompts]), cache)
        logits.append([forward(batches.decode(decoding.tokens), cache) for _ in range(3)])
    for expected, found in zip(*logits, strict=True):
        assert relative(found, expected) < 4e-3


def test_a_cache_without_the_padding_slot_is_refused() -> None:
    decoding = Decoding([5, 2])
    small = KVCache(decoding.model.config, decoding.padding, device=DEVICE, dtype=torch.float32)
    with pytest.raises(InvalidRequest, match="give it"):
        decoding.graphed.forward(decoding.batches.decode(decoding.tokens), small)
