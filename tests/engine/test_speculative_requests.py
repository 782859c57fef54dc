"""Requests that speculate get the same tokens in fewer steps beside any other requests, and wrong guesses lose no slots."""

from __future__ import annotations

from typing import Any

import pytest

import labkit
from labkit.engine import Engine, SamplingParams
from tests.engine.test_continuous_batching import check_idle, poison
from tests.models import FunctionForward, engine_of, random_peer, random_prompts

TEXT = "And the king said unto him, Go. And the king said unto"


def steps_of(engine: Engine, prompts: Any, params: Any) -> tuple[list[list[int]], int]:
    """The new tokens for each prompt, and the number of forward passes."""
    forward, calls = engine._forward, 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(*arguments)

    engine._forward = FunctionForward(counted)
    try:
        return [output.token_ids for output in engine.generate(prompts, params)], calls
    finally:
        engine._forward = forward


@pytest.mark.parametrize("wishes", [{}, {"temperature": 0.4, "seed": 5}, {"repetition_penalty": 1.05, "min_new_tokens": 20}])
def test_guesses_change_no_token_and_save_steps(wishes: dict[str, Any]) -> None:
    engine = labkit.load("gptj-tiny", device="cpu")
    plain, steps = steps_of(engine, TEXT, SamplingParams(max_new_tokens=60, ignore_eos=True, **wishes))
    engine.forget_prefixes()
    guessed, fewer = steps_of(engine, TEXT, SamplingParams(max_new_tokens=60, ignore_eos=True, speculate=6, **wishes))
    assert guessed == plain
    stats = engine.stats
    assert fewer == steps - stats.guesses_right
    assert stats.tokens_guessed >= stats.guesses_right > 5
    check_idle(engine)


@pytest.mark.parametrize("prefix_reuse", [True, False])
def test_guesses_beside_others_in_a_tight_pool_lose_no_slot(prefix_reuse: bool) -> None:
    peer = random_peer("one head of 80", 5)
    stems = random_prompts(59, [3, 4, 2, 5], 6)
    prompts = [stem * 3 for stem in stems]
    wishes = [{"temperature": 0.1 * n, "seed": n, "logprobs": n or None, "max_new_tokens": 18} for n in range(4)]
    plain = engine_of(peer).generate(prompts, [SamplingParams(**w, ignore_eos=True) for w in wishes])  # type: ignore[arg-type]
    engine = engine_of(peer, num_slots=60, max_batch_size=4, max_step_tokens=11, prefix_reuse=prefix_reuse)
    poison(engine)
    params = [SamplingParams(**w, ignore_eos=True, speculate=5) for w in wishes]  # type: ignore[arg-type]
    outputs = engine.generate(prompts, params)
    assert [output.token_ids for output in outputs] == [output.token_ids for output in plain]
    for output, expected in zip(outputs[1:], plain[1:], strict=True):
        mine, theirs = output.completions[0].logprobs, expected.completions[0].logprobs
        assert mine is not None
        assert theirs is not None
        assert [item.token_id for item in mine] == output.token_ids
        assert [item.logprob for item in mine] == pytest.approx([item.logprob for item in theirs], abs=1e-4)
    assert engine.stats.guesses_right > 0
    assert engine.stats.guesses_right < engine.stats.tokens_guessed
    check_idle(engine)


def test_a_stop_among_right_guesses_ends_the_text_there() -> None:
    engine = labkit.load("gptj-tiny", device="cpu")
    plain = engine.generate(TEXT, SamplingParams(max_new_tokens=60, ignore_eos=True))[0].token_ids
    for at in range(20, 40):
        stop = plain[at]
        first = plain.index(stop)
        params = SamplingParams(max_new_tokens=60, ignore_eos=True, speculate=8, stop_token_ids=[stop])
        assert engine.generate(TEXT, params)[0].token_ids == plain[: first + 1]
    check_idle(engine)
    limited = engine.generate(TEXT, SamplingParams(max_new_tokens=33, ignore_eos=True, speculate=8))[0].token_ids
    assert limited == plain[:33]


def test_a_prefix_kept_by_a_request_that_guessed_holds_no_wrong_guess() -> None:
    """The dialogue continues from the cache that speculation left, so the kept keys must be those of the accepted tokens."""
    peer = random_peer("one head of 80", 5)
    (stem,) = random_prompts(59, [4], 2)
    engine, fresh = engine_of(peer), engine_of(peer, prefix_reuse=False)
    text = stem * 2
    for _ in range(3):
        params = SamplingParams(max_new_tokens=6, ignore_eos=True, speculate=4)
        made = engine.generate([text], params)[0].token_ids
        assert made == fresh.generate([text], SamplingParams(max_new_tokens=6, ignore_eos=True))[0].token_ids
        text = text + made
    assert engine.stats.tokens_reused > 10
    assert engine.stats.tokens_guessed > engine.stats.guesses_right
