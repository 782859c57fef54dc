"""The engine computes what Hugging Face's GPT-J computes: the same greedy tokens and the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

import labkit
from labkit.engine import SamplingParams
from labkit.model import FixedBatches, KVCache
from tests.models import SHAPES, engine_of, peer_greedy, random_peer, random_prompts

TINY = Path(labkit.__file__).parent / "builtin" / "gptj-tiny"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_greedy_tokens_equal_transformers_in_a_ragged_batch(shape: str, seed: int) -> None:
    peer = random_peer(shape, seed)
    context, vocab = peer.config.n_positions, peer.config.vocab_size
    prompts = random_prompts(vocab, [1, 17, 2, context, context - 9, 5], seed)
    limits = [min(12, context - len(prompt) + 1) for prompt in prompts]
    outputs = engine_of(peer).generate(prompts, [SamplingParams(max_new_tokens=n) for n in limits])
    expected = [peer_greedy(peer, prompt, n) for prompt, n in zip(prompts, limits, strict=True)]
    assert [output.token_ids for output in outputs] == expected
    assert len({tuple(tokens) for tokens in expected}) > 3, "degenerate model: the comparison would prove nothing"


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_within_1e_5_of_a_float64_reference(shape: str) -> None:
    exact = random_peer(shape, 7, torch.float64)
    engine = engine_of(exact.float())
    exact = random_peer(shape, 7, torch.float64)
    (prompt,) = random_prompts(exact.config.vocab_size, [exact.config.n_positions], 7)
    with torch.no_grad():
        expected = exact(torch.tensor([prompt])).logits[0]
    found = engine.logits(prompt).double()
    assert ((found - expected).abs().max() / expected.abs().max()) < 1e-5
    assert ((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_decode_logits_equal_prefill_logits(shape: str) -> None:
    engine = engine_of(random_peer(shape, 3, torch.float64))
    model = engine.model
    (prompt, other) = random_prompts(engine.config.vocab_size, [21, 9], 3)
    cache = KVCache(engine.config, 2 * 30, device=engine.device, dtype=engine.dtype)
    batches = FixedBatches(2, 30, engine.device)
    model.forward(batches.prefill([torch.tensor(prompt[:13]), torch.tensor(other[:4])]), cache)
    for step in range(5):
        logits = model.forward(batches.decode(torch.tensor([prompt[13 + step], other[4 + step]])), cache)
        for row, text, at in ((0, prompt, 13 + step), (1, other, 4 + step)):
            expected = engine.logits(text[: at + 1])[-1]
            assert torch.allclose(logits[row], expected, rtol=1e-11, atol=1e-11)


def test_greedy_tokens_of_the_built_in_model_equal_transformers() -> None:
    peer = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    texts = ["In the beginning", "Call me", "The President shall, from time to time,", "\n", "It was"]
    outputs = labkit.load("gptj-tiny", device="cpu").generate(texts, SamplingParams(max_new_tokens=40))
    for text, output in zip(texts, outputs, strict=True):
        prompt = tokenizer(text)["input_ids"]
        assert output.prompt_token_ids == prompt
        expected = peer_greedy(peer, prompt, 40)
        assert output.token_ids == expected
        assert output.text == tokenizer.decode(expected, skip_special_tokens=True)


def test_more_prompts_than_slots_give_the_same_tokens() -> None:
    peer = random_peer("rotary below the head", 11)
    prompts = random_prompts(211, [3, 9, 1, 30, 12, 7, 22], 5)
    params = [SamplingParams(max_new_tokens=n) for n in (5, 1, 9, 3, 12, 2, 8)]
    roomy = engine_of(peer).generate(prompts, params)
    tight = engine_of(peer, max_batch_size=2, max_step_tokens=10).generate(prompts, params)
    assert [o.token_ids for o in roomy] == [o.token_ids for o in tight]
    assert [len(o.token_ids) for o in roomy] == [5, 1, 9, 3, 12, 2, 8]


def test_two_streams_at_once_do_not_disturb_each_other() -> None:
    engine = engine_of(random_peer("rotary below the head", 4))
    first, second = random_prompts(211, [8, 13], 4)
    params = SamplingParams(max_new_tokens=10)
    alone = [engine.generate([p], params)[0].token_ids for p in (first, second)]
    together = zip(engine.stream([first], params), engine.stream([second], params), strict=True)
    pairs = [(a.token_id, b.token_id) for a, b in together]
    assert [list(tokens) for tokens in zip(*pairs, strict=True)] == alone


def test_bfloat16_and_float16_follow_the_float64_reference() -> None:
    for dtype, bound in ((torch.bfloat16, 0.06), (torch.float16, 0.008)):
        exact = random_peer("head of 32, rotary of all", 9, torch.float64)
        (prompt,) = random_prompts(97, [40], 9)
        with torch.no_grad():
            expected = exact(torch.tensor([prompt])).logits[0]
        found = engine_of(exact.to(dtype)).logits(prompt).double()
        assert (found - expected).norm() / expected.norm() < bound
