"""An engine with a draft model: the tokens do not change, and the draft guesses the tokens that it would write by itself."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch

import labkit
from labkit.engine import Engine, SamplingParams
from labkit.engine.draft import Draft
from labkit.errors import InvalidRequest
from tests.engine.test_continuous_batching import alone, check_idle, poison, requests
from tests.models import engine_of, peer_greedy, random_peer, random_prompts

SHAPE = "rotary below the head"  # context 61, vocabulary 211
ANYTHING = 4
"""The number of guesses that the tests impose, so that they do not depend on measured times."""


@pytest.fixture(scope="module")
def peer() -> Any:
    return random_peer(SHAPE, 21)


def drafted(peer: Any, draft: Any, guesses: int | None = ANYTHING, **options: Any) -> Engine:
    """An engine with a draft model that has the weights of `draft`. If `guesses` is given, the draft always makes this number
    of guesses.
    """
    engine = engine_of(peer, draft=engine_of(draft).model, **options)
    poison(engine)
    if guesses is not None:
        length = draft_of(engine).length
        length.choose = lambda sequences: guesses  # type: ignore[method-assign]
        length.may_read = lambda *given: True  # type: ignore[method-assign]
    return engine


def draft_of(engine: Engine) -> Draft:
    engine._ready()
    assert engine._draft is not None
    return engine._draft


def damaged(peer: Any, share: float, seed: int) -> Any:
    """A copy of a model with noise added to its head, so that some of its tokens differ."""
    other = random_peer(SHAPE, 21)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        noise = torch.randn(other.lm_head.weight.shape, generator=generator)
        other.lm_head.weight.add_(share * other.lm_head.weight.std() * noise)
    return other


@pytest.mark.parametrize("share", [0.0, 0.1, 5.0])
@pytest.mark.parametrize(("seed", "num_slots"), [(1, 62), (3, 150), (5, 600)])
def test_any_requests_get_the_tokens_that_they_get_alone(peer: Any, seed: int, num_slots: int, share: float) -> None:
    prompts, params = requests(random.Random(seed), 14)
    params = [dataclasses.replace(each, max_new_tokens=min(each.max_new_tokens or 1, 24)) for each in params]
    engine = drafted(peer, damaged(peer, share, 1), num_slots=num_slots, max_batch_size=6, max_step_tokens=30)
    outputs = engine.generate(prompts, params)
    assert [[each.token_ids for each in output.completions] for output in outputs] == alone(peer, prompts, params)
    stats = engine.stats
    assert stats.tokens_guessed > 30
    assert stats.acceptance is not None
    assert stats.acceptance > 0.5 or share > 0.0
    assert stats.acceptance < 0.3 or share < 5.0
    check_idle(engine)


@pytest.mark.parametrize("wishes", [{}, {"temperature": 0.9, "top_p": 0.9, "seed": 4}, {"temperature": 0.7, "num_samples": 3}])
@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_a_draft_that_is_the_model_itself_is_always_right(peer: Any, prefix_reuse: bool, wishes: dict[str, Any]) -> None:
    """Wrong keys in the draft's cache, or draws with different random numbers, would give wrong guesses."""
    engine = drafted(peer, peer, prefix_reuse=prefix_reuse, max_batch_size=4, num_slots=140)
    (stem,) = random_prompts(211, [20], 3)
    prompts = [stem + tail for tail in random_prompts(211, [3, 1, 7, 2], 9)]
    params = SamplingParams(max_new_tokens=17, ignore_eos=True, **wishes)
    for _ in range(2):
        engine.generate(prompts, params)
    stats = engine.stats
    assert stats.guesses_right == stats.tokens_guessed > 80


def test_guesses_are_what_the_draft_writes_after_the_same_text(peer: Any) -> None:
    draft = damaged(peer, 0.4, 2)
    engine = drafted(peer, draft)
    own, seen = draft_of(engine), 0
    propose = own.propose

    def watched(wanted: Any, sequences: int) -> Any:
        nonlocal seen
        found = propose(wanted, sequences)
        for (entry, count), guesses in zip(wanted, found, strict=True):
            text = entry.sequence.prompt + entry.sequence.new_tokens
            assert guesses == peer_greedy(draft, text, count)
            seen += 1
        return found

    own.propose = watched  # type: ignore[method-assign]
    prompts = random_prompts(211, [5, 9], 4)
    texts = prompts
    for _ in range(3):  # a dialogue: the model has kept keys of later prompts, and the draft has only some of them
        params = SamplingParams(max_new_tokens=7, ignore_eos=True)
        outputs = engine.generate(texts, params)
        texts = [text + output.token_ids + [3] for text, output in zip(texts, outputs, strict=True)]
    assert seen > 8
    assert 0 < engine.stats.guesses_right < engine.stats.tokens_guessed


def test_plain_steps_between_guesses_leave_the_drafts_cache_right(peer: Any) -> None:
    """While the draft pauses, other tokens take the slots of wrong guesses. The draft must compute the keys of these tokens."""
    engine = drafted(peer, peer)
    counts = iter([3, 0, 0, 2, 1, 0, 4, 4, 0, 1] * 10)
    draft_of(engine).length.choose = lambda sequences: next(counts)  # type: ignore[method-assign]
    params = SamplingParams(max_new_tokens=30, ignore_eos=True)
    (prompt,) = random_prompts(211, [4], 8)
    wrong = drafted(peer, damaged(peer, 0.4, 5))
    again = iter([3, 0, 0, 2, 1, 0, 4, 4, 0, 1] * 10)
    draft_of(wrong).length.choose = lambda sequences: next(again)  # type: ignore[method-assign]
    assert engine.generate([prompt], params)[0].token_ids == wrong.generate([prompt], params)[0].token_ids
    assert engine.stats.guesses_right == engine.stats.tokens_guessed > 5
    # The first draft is the model itself, so all its guesses are right if its cache is right. The second draft errs.
    assert wrong.stats.guesses_right < wrong.stats.tokens_guessed


def test_samples_with_a_draft_have_the_models_distribution() -> None:
    """A chi-square test over all texts of three tokens, against the probabilities that transformers' logits give."""
    peer, bad = random_peer("one head of 80", 5), random_peer("one head of 80", 6)
    temperature, top_k, top_p, count = 1.6, 5, 0.95, 3000
    (prompt,) = random_prompts(59, [6], 11)
    engine = engine_of(peer, draft=engine_of(bad).model, max_batch_size=64, num_slots=64 * 12)
    draft_of(engine).length.choose = lambda sequences: 2  # type: ignore[method-assign]
    draft_of(engine).length.may_read = lambda *given: True  # type: ignore[method-assign]
    params = [
        SamplingParams(max_new_tokens=3, ignore_eos=True, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        for seed in range(count)
    ]
    found: dict[tuple[int, ...], int] = {}
    for output in engine.generate([prompt] * count, params):
        found[tuple(output.token_ids)] = found.get(tuple(output.token_ids), 0) + 1
    assert 0 < engine.stats.guesses_right < engine.stats.tokens_guessed  # some guesses were accepted, and some were not

    expected = {(): 1.0}
    for _ in range(3):
        expected = {
            (*text, token): share * chance
            for text, share in expected.items()
            for token, chance in enumerate(_chances(peer, [*prompt, *text], temperature, top_k, top_p))
            if chance > 0
        }
    assert set(found) <= set(expected)
    cells = [(count * share, found.get(text, 0)) for text, share in expected.items()]
    large = [cell for cell in cells if cell[0] >= 5]
    rest = [sum(column) for column in zip(*(cell for cell in cells if cell[0] < 5), strict=True)]
    large += [(rest[0], rest[1])] if rest else []
    statistic = sum((seen - wanted) ** 2 / wanted for wanted, seen in large)
    free = torch.tensor([(len(large) - 1) / 2, statistic / 2], dtype=torch.float64)
    assert len(large) > 20
    assert float(torch.special.gammaincc(free[0], free[1])) > 0.01


def _chances(peer: Any, text: list[int], temperature: float, top_k: int, top_p: float) -> list[float]:
    """The probabilities of the next token: of the `top_k` highest logits, keep the smallest number whose probabilities add up
    to `top_p`.
    """
    with torch.no_grad():
        logits = peer(torch.tensor([text])).logits[0, -1].double() / temperature
    order = logits.argsort(descending=True)[:top_k].tolist()
    weights = torch.softmax(logits[order], -1).tolist()
    kept, total = {}, 0.0
    for token, weight in zip(order, weights, strict=True):
        if total < top_p:
            kept[token] = weight
        total += weight
    whole = sum(kept.values())
    return [kept.get(token, 0.0) / whole for token in range(len(logits))]


def test_a_draft_that_fails_is_turned_off_and_no_request_notices(peer: Any) -> None:
    engine = drafted(peer, peer)
    prompts = random_prompts(211, [5, 9], 4)
    params = SamplingParams(max_new_tokens=12, ignore_eos=True)

    def fails(*given: Any) -> Any:
        raise MemoryError("no room")

    draft_of(engine)._guess = fails  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="the draft model failed.*no room"):
        outputs = engine.generate(prompts, params)
    assert [[output.token_ids] for output in outputs] == alone(peer, prompts, [params, params])
    assert engine.stats.tokens_guessed == 0
    check_idle(engine)


def test_a_draft_of_nan_changes_nothing(peer: Any) -> None:
    draft = random_peer(SHAPE, 3)
    with torch.no_grad():
        draft.transformer.ln_f.weight.fill_(torch.nan)
    engine = drafted(peer, draft)
    prompts = random_prompts(211, [5, 9], 4)
    params = [SamplingParams(max_new_tokens=12, ignore_eos=True, temperature=heat, seed=1) for heat in (0.0, 0.8)]
    outputs = engine.generate(prompts, params)
    assert [[output.token_ids] for output in outputs] == alone(peer, prompts, params)


def test_a_shorter_context_of_the_draft_ends_its_guesses(peer: Any) -> None:
    draft = random_peer((96, 2, 3, 6, 20, 211), 21)
    engine = drafted(peer, draft)
    (prompt,) = random_prompts(211, [5], 4)
    params = SamplingParams(max_new_tokens=40, ignore_eos=True)
    assert [[engine.generate([prompt], params)[0].token_ids]] == alone(peer, [prompt], [params])
    assert 0 < engine.stats.tokens_guessed <= 4 * 15


def test_the_engine_measures_and_guesses_by_itself() -> None:
    """The test imposes no number of guesses: whether or not the engine guesses, the text is the same."""
    plain, engine = labkit.load("gptj-tiny", device="cpu"), labkit.load("gptj-tiny", device="cpu", draft="gptj-tiny")
    params = SamplingParams(max_new_tokens=60, ignore_eos=True)
    text = "In the beginning"
    assert engine.generate(text, params)[0].token_ids == plain.generate(text, params)[0].token_ids
    assert draft_of(engine).length._total > 0


def test_refusals(peer: Any, tmp_path: Any) -> None:
    other = random_peer("one head of 80", 5)
    with pytest.raises(InvalidRequest, match="vocabulary of 59 tokens and the model one of 211"):
        drafted(peer, other)
    with pytest.raises(InvalidRequest, match="vocabulary of 50400 tokens and gptj-tiny one of 8192"):
        labkit.load("gptj-tiny", device="cpu", draft="gpt-j-405m-synthetic")
    with pytest.raises(InvalidRequest, match="draft is 3"):
        labkit.load("gptj-tiny", device="cpu", draft=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="there is no model 'nothing'"):
        labkit.load("gptj-tiny", device="cpu", draft="nothing")
