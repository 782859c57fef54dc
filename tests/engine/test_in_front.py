"""Soft prompts, prefix prompts and `memory_len` are compared with Hugging Face and with a simple model in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from labkit.engine import SamplingParams
from tests.engine.test_beam_search import peer_with_ends, searched, slow_beams, tokens
from tests.models import engine_of, random_peer, random_prompts

SHAPE = "rotary below the head"  # 96 wide, 2 layers of 3 heads, context 61, vocabulary 211


@pytest.fixture(scope="module")
def peer() -> Any:
    return random_peer(SHAPE, 21)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


pytestmark = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")


@torch.no_grad()
def logits_behind(peer: Any, soft: Tensor | None, prefix: Tensor | None, tokens: list[int]) -> Tensor:
    """Hugging Face's logits after the last token. The model gets the soft prompt in `inputs_embeds` and the prefix prompt in
    `past_key_values`.
    """
    embeddings = peer.transformer.wte(torch.tensor([tokens]))
    if soft is not None:
        embeddings = torch.cat((soft[None], embeddings), dim=1)
    cache = DynamicCache(config=peer.config)
    for layer, (keys, values) in enumerate(prefix if prefix is not None else ()):
        cache.update(keys[None].clone(), values[None].clone(), layer)
    logits: Tensor = peer(inputs_embeds=embeddings, past_key_values=cache).logits[0, -1]
    return logits


def greedy_behind(peer: Any, soft: Tensor | None, prefix: Tensor | None, prompt: list[int], new_tokens: int) -> list[int]:
    made: list[int] = []
    for _ in range(new_tokens):
        made.append(int(logits_behind(peer, soft, prefix, prompt + made).argmax()))
    return made


@pytest.mark.parametrize("step", [1024, 7])
def test_soft_prompts_are_inputs_embeds_and_prefix_prompts_are_past_key_values(peer: Any, step: int) -> None:
    """One batch has all kinds of prompts, computed whole and in chunks of up to 7 tokens. Prompts with equal tokens but a
    different soft prompt or prefix prompt must not share keys.
    """
    prompts = random_prompts(211, [6, 6, 1, 20], 21)
    prompts[1] = prompts[0]
    softs = [random(3, 96, seed=1), random(9, 96, seed=2), None, None, random(1, 96, seed=3)]
    prefixes = [None, random(2, 2, 3, 5, 32, seed=4), random(2, 2, 3, 1, 32, seed=5), random(2, 2, 3, 17, 32, seed=6), None]
    prompts.append(prompts[0])
    asked = list(zip(prompts, softs, prefixes, strict=True))
    params = [SamplingParams(soft_prompt=s, prefix_prompt=p, max_new_tokens=8, ignore_eos=True) for _, s, p in asked]
    expected = [greedy_behind(peer, soft, prefix, prompt, 8) for prompt, soft, prefix in asked]
    engine = engine_of(peer, max_batch_size=4, max_step_tokens=step)
    plain = SamplingParams(max_new_tokens=8, ignore_eos=True)
    outputs = engine.generate([*prompts, prompts[0], prompts[2]], [*params, plain, plain])
    assert [output.token_ids for output in outputs[:5]] == expected
    assert [o.token_ids for o in outputs[5:]] == [greedy_behind(peer, None, None, prompts[n], 8) for n in (0, 2)]
    assert len({tuple(output.token_ids) for output in outputs}) == len(outputs), "the fronts make no difference"


def test_samples_of_a_prompt_share_what_stands_in_front(peer: Any) -> None:
    (prompt,) = random_prompts(211, [4], 3)
    front = {"soft_prompt": random(3, 96, seed=7), "prefix_prompt": random(2, 2, 3, 4, 32, seed=8)}
    params = SamplingParams(**front, max_new_tokens=8, ignore_eos=True, temperature=0.9, seed=5, num_samples=3)
    samples = [c.token_ids for c in engine_of(peer).generate([prompt], params)[0].completions]
    assert len(set(map(tuple, samples))) == 3
    alone = SamplingParams(**front, max_new_tokens=8, ignore_eos=True, temperature=0.9, seed=5)
    assert engine_of(peer, prefix_reuse=False).generate([prompt], alone)[0].token_ids == samples[0]


@torch.no_grad()
def windowed_logits(peer: Any, tokens: list[int], window: int) -> Tensor:
    """The logits after the last token, computed by the formulas in float64. Each token attends to the last `window` tokens."""
    weights = {name: tensor.double() for name, tensor in peer.state_dict().items()}
    heads, width, rotary = peer.config.n_head, peer.config.n_embd, peer.config.rotary_dim
    count = len(tokens)
    position = torch.arange(count)
    angles = position[:, None].double() * 10000 ** (-torch.arange(0, rotary, 2).double() / rotary)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    age = position[:, None] - position
    hidden = weights["transformer.wte.weight"][torch.tensor(tokens)]
    for layer in range(peer.config.n_layer):
        get = lambda name, layer=layer: weights[f"transformer.h.{layer}.{name}"]  # noqa: E731
        normed = torch.nn.functional.layer_norm(hidden, (width,), get("ln_1.weight"), get("ln_1.bias"), 1e-5)
        query, key, value = ((normed @ get(f"attn.{n}_proj.weight").T).view(count, heads, -1) for n in "qkv")
        for x in (query, key):
            x[..., :rotary] = torch.view_as_real(torch.view_as_complex(x[..., :rotary].unflatten(-1, (-1, 2))) * turn).flatten(
                -2
            )
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(width // heads)
        scores = scores.masked_fill((age < 0) | (age >= window), -math.inf)
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(count, width) @ get("attn.out_proj.weight").T
        inner = torch.nn.functional.gelu(normed @ get("mlp.fc_in.weight").T + get("mlp.fc_in.bias"), approximate="tanh")
        hidden = hidden + attended + inner @ get("mlp.fc_out.weight").T + get("mlp.fc_out.bias")
    last = torch.nn.functional.layer_norm(
        hidden[-1], (width,), weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"], 1e-5
    )
    return last @ weights["lm_head.weight"].T + weights["lm_head.bias"]


def greedy_windowed(peer: Any, prompt: list[int], window: int, new_tokens: int) -> list[int]:
    made: list[int] = []
    for _ in range(new_tokens):
        made.append(int(windowed_logits(peer, prompt + made, window).argmax()))
    return made


def test_the_plain_model_is_hugging_faces_when_nothing_is_forgotten(peer: Any) -> None:
    (prompt,) = random_prompts(211, [40], 8)
    with torch.no_grad():
        expected = peer(torch.tensor([prompt])).logits[0, -1].double()
    assert (windowed_logits(peer, prompt, 100) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("options", [{}, {"max_batch_size": 3, "max_step_tokens": 6}], ids=str)
def test_memory_len_attends_to_the_last_so_many_tokens(peer: Any, options: dict[str, int]) -> None:
    """Each sequence in the batch has a different `memory_len`."""
    prompts = random_prompts(211, [8, 1, 12, 5], 9)
    windows = [8, 3, 14, 30]
    params = [SamplingParams(memory_len=window, max_new_tokens=18, ignore_eos=True) for window in windows]
    found = [output.token_ids for output in engine_of(peer, **options).generate(prompts, params)]
    assert found == [greedy_windowed(peer, prompt, window, 18) for prompt, window in zip(prompts, windows, strict=True)]
    free = engine_of(peer).generate(prompts, SamplingParams(max_new_tokens=18, ignore_eos=True))
    assert [tokens == output.token_ids for tokens, output in zip(found, free, strict=True)] == [False, False, False, True]


def test_who_is_preempted_past_a_full_memory_goes_on_as_if_not(peer: Any) -> None:
    prompts = random_prompts(211, [8, 2], 10)
    windows = [30, 4]
    engine = engine_of(peer, num_slots=30)
    params = [SamplingParams(memory_len=window, max_new_tokens=26, ignore_eos=True) for window in windows]
    found = [output.token_ids for output in engine.generate(prompts, params)]
    assert engine.stats.preemptions > 0
    assert found == [greedy_windowed(peer, prompt, window, 26) for prompt, window in zip(prompts, windows, strict=True)]


def test_a_memory_holds_no_more_slots_than_it_says(peer: Any) -> None:
    engine = engine_of(peer, num_slots=10, prefix_reuse=False)
    params = SamplingParams(memory_len=6, max_new_tokens=40, ignore_eos=True)
    held = []
    for _ in engine.stream(random_prompts(211, [4], 2), params):
        held.append(10 - engine.stats.free_slots)
    assert max(held) == 6
    assert engine.stats.free_slots == 10


def test_an_empty_prompt_begins_with_the_start_token(peer: Any) -> None:
    params = SamplingParams(start_token_id=17, max_new_tokens=6, ignore_eos=True)
    (output,) = engine_of(peer).generate([[]], params)
    assert output.prompt_token_ids == [17]
    assert output.token_ids == greedy_behind(peer, None, None, [17], 6)
    (begun,) = engine_of(peer).generate([[5, 6]], params)
    assert begun.prompt_token_ids == [5, 6]


def test_beams_behind_soft_and_prefix_prompts_and_with_a_bounded_memory() -> None:
    peer = peer_with_ends(SHAPE, 22, 2.0)
    prompts = random_prompts(211, [5, 3, 7, 4], 22)
    soft, prefix = random(4, 96, seed=1), random(2, 2, 3, 5, 32, seed=2)
    rules: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 6}
    params = [
        SamplingParams(soft_prompt=soft, **rules),
        SamplingParams(prefix_prompt=prefix, soft_prompt=soft[:1], **rules),
        SamplingParams(memory_len=8, **rules),
        SamplingParams(**rules),
    ]
    found = searched(engine_of(peer), prompts, params, max_prefill_tokens=20)
    asked: list[Callable[[list[int]], Tensor]] = [
        lambda made: logits_behind(peer, soft, None, prompts[0] + made),
        lambda made: logits_behind(peer, soft[:1], prefix, prompts[1] + made),
        lambda made: windowed_logits(peer, prompts[2] + made, 8),
        lambda made: logits_behind(peer, None, None, prompts[3] + made),
    ]
    for logits_of, chosen, hypotheses in zip(asked, params, found, strict=True):
        expected = slow_beams(logits_of, chosen, 6)
        assert [tokens(hypothesis) for hypothesis in hypotheses] == [made for made, _ in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx([score for _, score in expected], rel=1e-4)
    free = searched(engine_of(peer), prompts, [SamplingParams(**rules)] * 4)
    different = [[tokens(h) for h in mine] != [tokens(h) for h in theirs] for mine, theirs in zip(found, free, strict=True)]
    assert different == [True, True, True, False]
