"""Sampling draws from the right distribution, each parameter has its effect, and equal seeds give equal draws."""

from __future__ import annotations

from typing import Any

import pytest
import scipy  # loads `scipy.stats` when a test uses it
import torch

from labkit.engine import SamplingParams, sampler
from labkit.engine.schedule.sequence import Sequence
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


def sampler_of(sequences: list[Sequence], vocab: int, device: torch.device | str = "cpu") -> sampler.Sampler:
    """A sampler whose rows hold these sequences, in order."""
    made = sampler.Sampler(len(sequences), vocab, torch.device(device))
    for row, one in enumerate(sequences):
        made.join(row, one)
    return made


def draws(logits: torch.Tensor, count: int, **params: Any) -> torch.Tensor:
    """How often each token is drawn in `count` steps of one sequence."""
    state = sampler_of([sequence(**params)], len(logits))
    tokens = torch.cat([state.sample(logits[None], [0]) for _ in range(count)])
    return torch.bincount(tokens, minlength=len(logits))


def edited(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    rows = range(len(sequences))
    return sampler_of(sequences, logits.shape[1]).edit(logits, rows)


def expected_distribution(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """The distribution that a slow, independent implementation of the parameters gives."""
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
    assert scipy.stats.chisquare(counts[allowed], 4000 * expected[allowed]).pvalue > 1e-3
    wrong = expected_distribution(logits, temperature * 1.3, top_k, top_p)
    assert scipy.stats.chisquare(counts[allowed] + 1, 1 + 4000 * wrong[allowed], sum_check=False).pvalue < 1e-3


def test_repetition_penalty_is_the_one_of_transformers() -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    one = sequence(prompt=[3, 8, 8, 40], made=[7, 3], repetition_penalty=1.7)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([[3, 8, 8, 40, 7, 3]]), logits.clone())
    assert torch.allclose(edited(logits, [one]), expected)


def test_presence_penalty_is_subtracted_once_from_new_tokens_only() -> None:
    logits = torch.randn(1, 50)
    found = edited(logits, [sequence(prompt=[3], made=[7, 7, 9], presence_penalty=0.75)])
    difference = (logits - found)[0]
    assert difference.nonzero().flatten().tolist() == [7, 9]
    assert torch.allclose(difference[[7, 9]], torch.tensor(0.75))


def test_bad_words_are_banned_only_where_they_would_be_completed() -> None:
    logits = torch.zeros(3, 30)
    words = [(5,), (6, 7), (1, 2, 3)]
    found = edited(logits, [sequence(prompt=[1], made=[2], bad_words=words), sequence([6], bad_words=words), sequence()])
    assert [torch.isinf(row).nonzero().flatten().tolist() for row in found] == [[3, 5], [5, 7], []]


def test_end_of_text_waits_for_the_minimum_length() -> None:
    logits = torch.zeros(1, 30)
    short = sequence(made=[4], min_new_tokens=2, stop_token_ids=(9,))
    assert torch.isinf(edited(logits, [short])[0]).nonzero().flatten().tolist() == [0, 9]
    long = sequence(made=[4, 4], min_new_tokens=2)
    assert not torch.isinf(edited(logits, [long])).any()


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


WISHES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"top_p": 0.9, "seed": 1},
    {"top_k": 7, "temperature": 0.8, "repetition_penalty": 1.4},
    {"temperature": 0.0, "presence_penalty": 0.8, "min_new_tokens": 9},
    {"bad_words": [(3,), (5, 6), (1, 2, 3)], "seed": (1 << 64) - 5},
    {"top_p": 0.9, "top_p_decay": 0.8, "top_p_min": 0.2, "top_p_reset_ids": [4, 11, 17]},
    {"temperature": 0.0, "bad_words": [(7, 8, 9, 10)], "repetition_penalty": 0.8},
    {"temperature": 1.7, "min_new_tokens": 4, "stop_token_ids": [2, 9]},
]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rows_moved_on_by_tokens_are_rows_built_anew(seed: int) -> None:
    """Sequences take and leave the sampler's rows in any order. Each must draw the same tokens as when it is alone."""
    vocab, steps = 19, 14
    draw = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(len(WISHES), steps, vocab, generator=draw)

    def fresh(number: int, made: list[int]) -> Sequence:
        return sequence([1, 5, number], made, **{"seed": number, **WISHES[number]})

    alone: list[list[int]] = []
    for number in range(len(WISHES)):
        made: list[int] = []
        for step in range(steps):
            state = sampler_of([fresh(number, made)], vocab)
            made += state.sample(logits[number, step][None], [0]).tolist()
        alone.append(made)

    state = sampler.Sampler(4, vocab, logits.device)
    crowd: list[list[int]] = [[] for _ in WISHES]
    held: dict[int, int] = {}  # row: sequence
    while any(len(made) < steps for made in crowd):
        for row in range(4):
            waiting = [n for n, made in enumerate(crowd) if len(made) < steps and n not in held.values()]
            if waiting and row not in held:
                held[row] = waiting[int(torch.randint(len(waiting), (), generator=draw))]
                state.join(row, fresh(held[row], crowd[held[row]]))
        order = [row for row in torch.randperm(4, generator=draw).tolist() if row in held]
        rows = order[: 1 + int(torch.randint(len(order), (), generator=draw))]
        tokens = state.sample(torch.stack([logits[held[row], len(crowd[held[row]])] for row in rows]), rows).tolist()
        for row, token in zip(rows, tokens, strict=True):
            crowd[held[row]].append(token)
            if len(crowd[held[row]]) == steps or int(torch.randint(4, (), generator=draw)) == 0:  # some are preempted
                del held[row]
                state.leave(row)
    assert crowd == alone
    assert len({tuple(made) for made in alone}) == len(WISHES)
