"""Sampling draws from the right distribution, each parameter does what it says, and seeds are kept."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from labkit.engine import SamplingParams, sampler
from labkit.engine.sequence import Sequence
from tests.models import engine_of, random_peer, random_prompts


def sequence(prompt: list[int] | None = None, made: list[int] | None = None, **params: Any) -> Sequence:
    chosen = SamplingParams(**{"temperature": 1.0, "seed": 5, **params})
    built = Sequence(
        request=0,
        sample=0,
        prompt=prompt or [1],
        params=chosen,
        max_new_tokens=10_000,
        eos_token_id=0,
        bad_words=[tuple(word) for word in chosen.bad_words],
        seed=chosen.seed or 0,
        token_bytes=lambda token: b"",
    )
    built.new_tokens.extend(made or [])
    return built


def draws(logits: torch.Tensor, count: int, **params: Any) -> torch.Tensor:
    one = sequence(**params)
    tokens = []
    for _ in range(count):
        (token,) = sampler.sample(logits[None], [one])
        one.new_tokens.append(token)
        tokens.append(token)
    return torch.bincount(torch.tensor(tokens), minlength=len(logits))


def expected_distribution(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """An independent, slow statement of what the parameters mean."""
    probabilities = torch.softmax(logits.double() / temperature, 0)
    order = sorted(range(len(logits)), key=lambda i: -float(probabilities[i]))
    kept = order[: top_k or len(order)]
    mass = sum(float(probabilities[i]) for i in kept)
    nucleus: list[int] = []
    while sum(float(probabilities[i]) for i in nucleus) < top_p * mass:
        nucleus.append(kept[len(nucleus)])
    out = torch.zeros_like(probabilities)
    out[nucleus] = probabilities[nucleus]
    return out / out.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 6, 1.0), (1.0, 0, 0.8), (2.0, 9, 0.6)]
)
@pytest.mark.parametrize("seed", [3, 4])
def test_draws_follow_the_distribution(temperature: float, top_k: int, top_p: float, seed: int) -> None:
    logits = 1.5 * torch.randn(23, generator=torch.Generator().manual_seed(seed))
    counts = draws(logits, 4000, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    expected = expected_distribution(logits, temperature, top_k, top_p)
    allowed = expected > 0
    assert int(counts[~allowed].sum()) == 0
    assert stats.chisquare(counts[allowed], 4000 * expected[allowed]).pvalue > 1e-3
    wrong = expected_distribution(logits, temperature * 1.3, top_k, top_p)
    assert stats.chisquare(counts[allowed] + 1, 1 + 4000 * wrong[allowed], sum_check=False).pvalue < 1e-3


def test_uniform_numbers_are_uniform_and_independent() -> None:
    numbers = torch.tensor([sampler.uniform(7, s, p) for s in range(20) for p in range(500)], dtype=torch.float64)
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack((numbers[:-1], numbers[1:])))[0, 1])) < 0.03
    assert len({sampler.uniform(seed, 0, 0) for seed in range(1000)}) == 1000


def test_repetition_penalty_is_the_one_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    one = sequence(prompt=[3, 8, 8, 40], made=[7, 3], repetition_penalty=1.7)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[3, 8, 8, 40, 7, 3]]), logits.clone())
    assert torch.allclose(sampler._edit(logits, [one]), expected)


def test_presence_penalty_is_subtracted_once_from_new_tokens_only() -> None:
    logits = torch.randn(1, 50)
    edited = sampler._edit(logits, [sequence(prompt=[3], made=[7, 7, 9], presence_penalty=0.75)])
    difference = (logits - edited)[0]
    assert difference.nonzero().flatten().tolist() == [7, 9]
    assert torch.allclose(difference[[7, 9]], torch.tensor(0.75))


def test_bad_words_are_banned_only_where_they_would_be_completed() -> None:
    logits = torch.zeros(2, 30)
    words = [(5,), (6, 7), (1, 2, 3)]
    edited = sampler._edit(logits, [sequence(prompt=[1], made=[2], bad_words=words), sequence([6], bad_words=words)])
    assert torch.isinf(edited[0]).nonzero().flatten().tolist() == [3, 5]
    assert torch.isinf(edited[1]).nonzero().flatten().tolist() == [5, 7]


def test_end_of_text_waits_for_the_minimum_length() -> None:
    logits = torch.zeros(1, 30)
    short = sequence(made=[4], min_new_tokens=2, stop_token_ids=(9,))
    assert torch.isinf(sampler._edit(logits, [short])[0]).nonzero().flatten().tolist() == [0, 9]
    long = sequence(made=[4, 4], min_new_tokens=2)
    assert not torch.isinf(sampler._edit(logits, [long])).any()


def test_logprobs_are_of_the_models_own_distribution() -> None:
    engine = engine_of(random_peer("one head of 80", 2))
    (prompt,) = random_prompts(59, [6], 2)
    params = SamplingParams(max_new_tokens=5, temperature=0.3, top_k=3, seed=1, logprobs=4, ignore_eos=True)
    (output,) = engine.generate([prompt], params)
    (completion,) = output.completions
    table = torch.log_softmax(engine.logits(prompt + completion.token_ids).double(), -1)
    assert completion.logprobs is not None
    for index, (token, item) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
        row = table[len(prompt) - 1 + index]
        assert item.token_id == token
        assert item.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [i for i, _ in item.top] == row.topk(4).indices.tolist()
    total = sum(item.logprob for item in completion.logprobs)
    assert completion.cumulative_logprob == pytest.approx(total)


def test_equal_seeds_give_equal_text_whatever_else_is_in_the_batch() -> None:
    engine = engine_of(random_peer("rotary below the head", 8))
    mine, *others = random_prompts(211, [7, 3, 19, 1, 30], 8)
    params = SamplingParams(max_new_tokens=20, temperature=1.0, top_p=0.95, seed=42, ignore_eos=True)
    alone = engine.generate([mine], params)[0].token_ids
    noise = [SamplingParams(max_new_tokens=n, temperature=t, seed=n) for n, t in ((3, 0.0), (25, 2.0), (9, 1.0), (20, 0.5))]
    crowd = engine.generate([*others[:2], mine, *others[2:]], [*noise[:2], params, *noise[2:]])
    assert crowd[2].token_ids == alone
    assert engine.generate([mine], params)[0].token_ids == alone
    other = SamplingParams(max_new_tokens=20, temperature=1.0, top_p=0.95, seed=43, ignore_eos=True)
    assert engine.generate([mine], other)[0].token_ids != alone


def test_samples_of_a_prompt_differ_and_are_kept_by_the_seed() -> None:
    engine = engine_of(random_peer("one head of 80", 6))
    (prompt,) = random_prompts(59, [5], 6)
    params = SamplingParams(max_new_tokens=12, temperature=1.0, seed=1, num_samples=4, ignore_eos=True)
    (output,) = engine.generate([prompt], params)
    texts = [tuple(c.token_ids) for c in output.completions]
    assert len(set(texts)) == 4
    assert [tuple(c.token_ids) for c in engine.generate([prompt], params)[0].completions] == texts
    single = SamplingParams(max_new_tokens=12, temperature=1.0, seed=1, ignore_eos=True)
    assert tuple(engine.generate([prompt], single)[0].token_ids) == texts[0]


def test_no_seed_means_a_new_text_each_time() -> None:
    engine = engine_of(random_peer("one head of 80", 6))
    params = SamplingParams(max_new_tokens=20, temperature=2.0, ignore_eos=True)
    texts = {tuple(engine.generate([[5, 6]], params)[0].token_ids) for _ in range(4)}
    assert len(texts) == 4


def test_a_draw_never_takes_a_token_without_probability() -> None:
    logits = torch.full((1, 9), -math.inf)
    logits[0, 4] = 0.0
    assert draws(logits[0], 50).nonzero().flatten().tolist() == [4]
