"""The engine on a GPU generates the same tokens as Hugging Face in fp32, and in half precision is close to float64."""

from __future__ import annotations

import pytest
import torch

import labkit
from labkit import measure
from labkit.engine import SamplingParams
from labkit.measure.gpu_state import gpu_state
from tests.models import SHAPES, engine_of, peer_greedy, random_peer, random_prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU that torch can use"),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_transformers_in_fp32(shape: str) -> None:
    peer = random_peer(shape, 1)
    context, vocab = peer.config.n_positions, peer.config.vocab_size
    prompts = random_prompts(vocab, [1, 17, context, 5], 1)
    limits = [min(12, context - len(prompt) + 1) for prompt in prompts]
    expected = [peer_greedy(peer, prompt, n) for prompt, n in zip(prompts, limits, strict=True)]
    outputs = engine_of(peer.to("cuda")).generate(prompts, [SamplingParams(max_new_tokens=n) for n in limits])
    assert [output.token_ids for output in outputs] == expected


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.008)])
def test_logits_follow_the_float64_reference(dtype: torch.dtype, bound: float) -> None:
    exact = random_peer("head of 256", 9, torch.float64)
    (prompt,) = random_prompts(exact.config.vocab_size, [37], 9)
    with torch.no_grad():
        expected = exact(torch.tensor([prompt])).logits[0]
    found = engine_of(exact.to("cuda", dtype)).logits(prompt).double().cpu()
    assert (found - expected).norm() / expected.norm() < bound


@pytest.mark.parametrize("length", [1, 3, 8, 9])
def test_logits_of_short_texts_are_transformers_own(length: int) -> None:
    """The texts are so short that a CUDA graph can run their prefill. Its padding needs a slot that no sequence owns."""
    peer = random_peer("head of 256", 9)
    (prompt,) = random_prompts(peer.config.vocab_size, [length], 9)
    with torch.no_grad():
        expected = peer(torch.tensor([prompt])).logits[0].double()
    engine = engine_of(peer.to("cuda"))
    before = engine.generate([[1, 2, 3]])[0].token_ids
    found = engine.logits(prompt).double().cpu()
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert engine.generate([[1, 2, 3]])[0].token_ids == before


def test_the_best_device_is_the_gpu_in_fp16() -> None:
    engine = labkit.load("gptj-tiny")
    assert engine.device.type == "cuda"
    assert engine.dtype == torch.float16
    assert len(engine.generate("In the beginning", SamplingParams(max_new_tokens=8))[0].token_ids) == 8


def test_equal_seeds_give_equal_text_in_any_batch() -> None:
    engine = labkit.load("gptj-tiny", dtype="fp32")
    params = SamplingParams(max_new_tokens=20, temperature=0.9, seed=5)
    alone = engine.generate("The sea", params)[0].token_ids
    crowd = engine.generate(["The sea", "A king", "It was"], params)[0].token_ids
    assert alone == crowd


def test_synthetic_weights_are_made_on_the_device() -> None:
    labkit.load("gptj-tiny", device="cuda").generate("The sea", SamplingParams(max_new_tokens=2))  # loads CUDA's libraries
    with measure.peak_host_memory() as host:
        engine = labkit.load("gpt-j-405m-synthetic", device="cuda", dtype="fp16")
    weights = 2 * engine.config.parameter_count
    assert torch.cuda.memory_allocated() >= weights
    assert host.bytes < weights / 4


def test_timing_waits_for_the_queue() -> None:
    left = torch.randn(8192, 8192, device="cuda")
    honest = measure.time_call(lambda: torch.mm(left, left), device="cuda", max_runs=5, max_seconds=5)
    assert honest.median > 2 * 8192**3 / 1e15, "faster than any GPU multiplies fp32: the queue was not waited for"


def test_power_and_clocks_are_read() -> None:
    state = gpu_state(0)
    if state is None:
        pytest.skip("not measured here: no NVML")
    assert state.watts > 0
    assert state.sm_mhz > 0
