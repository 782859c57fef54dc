"""Requests with beam search find the same texts as transformers, also beside other requests, in a small pool of slots and after
failures.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from labkit.engine import SamplingParams
from labkit.errors import InvalidRequest
from tests.engine.test_beam_search import of_transformers, peer_with_ends
from tests.engine.test_continuous_batching import alone, check_idle, poison
from tests.models import FunctionForward, engine_of, random_prompts

SHAPE = "rotary below the head"  # context 61, vocabulary 211


@pytest.fixture(scope="module")
def peer() -> Any:
    return peer_with_ends(SHAPE, 21, 2.0)


def beams(count: int, new_tokens: int, **params: Any) -> SamplingParams:
    return SamplingParams(num_beams=count, max_new_tokens=new_tokens, **params)


def expected_texts(peer: Any, prompt: list[int], params: SamplingParams) -> list[list[int]]:
    limit = params.max_new_tokens
    found = of_transformers(peer, prompt, params.num_samples, num_beams=params.num_beams, max_new_tokens=limit)
    return [tokens for tokens, _ in found]


def test_beams_beside_drawn_and_greedy_requests_are_those_of_transformers(peer: Any) -> None:
    prompts = random_prompts(211, [7, 20, 12, 3, 30], 2)
    plain = [SamplingParams(max_new_tokens=15), SamplingParams(max_new_tokens=20, temperature=0.8, seed=4, num_samples=2)]
    params = [beams(4, 12, num_samples=3), plain[0], beams(3, 9), plain[1], beams(2, 14, num_samples=2)]
    engine = engine_of(peer, max_step_tokens=70, num_slots=350)
    poison(engine)
    outputs = [[c.token_ids for c in output.completions] for output in engine.generate(prompts, params)]
    for index in (0, 2, 4):
        assert outputs[index] == expected_texts(peer, prompts[index], params[index])
    assert [outputs[1], outputs[3]] == alone(peer, [prompts[1], prompts[3]], plain)
    check_idle(engine)


def test_decoding_goes_on_in_every_step_of_a_search(peer: Any) -> None:
    engine = engine_of(peer)
    short, prompt = random_prompts(211, [4, 25], 6)
    number = engine.add_request(short, SamplingParams(max_new_tokens=40, ignore_eos=True))
    engine.step()
    search = engine.add_request(prompt, beams(4, 12))
    per_step = []
    while True:
        events = engine.step()
        per_step.append(sum(event.request == number for event in events))
        if any(event.request == search for event in events):
            break
    assert per_step == [1] * len(per_step)
    assert len(per_step) > 5
    engine.cancel(number)
    check_idle(engine)


def test_searches_wait_for_their_slots_and_hold_up_nobody_for_good(peer: Any) -> None:
    prompts = random_prompts(211, [10, 6, 8, 12, 5], 8)
    params = [SamplingParams(max_new_tokens=30), beams(4, 8), SamplingParams(max_new_tokens=40), beams(3, 10), beams(2, 20)]
    engine = engine_of(peer, num_slots=62, max_batch_size=5, max_step_tokens=20)
    outputs = [[c.token_ids for c in output.completions] for output in engine.generate(prompts, params)]
    for index in (1, 3, 4):
        assert outputs[index] == expected_texts(peer, prompts[index], params[index])
    assert [outputs[0], outputs[2]] == alone(peer, [prompts[0], prompts[2]], [params[0], params[2]])
    check_idle(engine)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_cancelled_search_gives_its_slots_back(peer: Any, steps: int) -> None:
    engine = engine_of(peer)
    first, second = random_prompts(211, [6, 9], 5)
    ids = [engine.add_request(prompt, beams(3, 15)) for prompt in (first, second)]
    for _ in range(steps):
        engine.step()
    assert engine.cancel(ids[0])
    events = []
    while engine.has_unfinished:
        events += engine.step()
    assert {event.request for event in events} == {ids[1]}
    assert [event.token_id for event in events] == expected_texts(peer, second, beams(3, 15))[0]
    check_idle(engine)
    last = engine.add_request(first, beams(3, 15))
    for _ in range(steps):
        engine.step()
    engine.cancel(last)
    check_idle(engine)


def test_a_search_whose_pass_fails_once_starts_anew_and_loses_nothing(peer: Any) -> None:
    engine = engine_of(peer)
    prompts = random_prompts(211, [6, 9], 5)
    forward, calls = engine._forward, 0

    def failing(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("on purpose")
        return forward(*arguments)

    engine._forward = FunctionForward(failing)
    outputs = engine.generate(prompts, beams(3, 10))
    assert [output.token_ids for output in outputs] == [expected_texts(peer, p, beams(3, 10))[0] for p in prompts]
    check_idle(engine)


def test_a_prompt_whose_search_fails_is_ended_alone(peer: Any) -> None:
    engine = engine_of(peer)
    first, second = random_prompts(211, [6, 9], 5)
    numbers = [engine.add_request(prompt, beams(3, 10)) for prompt in (first, second)]
    forward = engine._forward

    def failing(batch: Any, cache: Any) -> torch.Tensor:
        if second[0] in batch.token_ids.tolist() and batch.num_tokens > 6:
            raise RuntimeError("on purpose")
        return forward(batch, cache)

    engine._forward = FunctionForward(failing)
    events = []
    while engine.has_unfinished:
        events += engine.step()
    errors = [event for event in events if event.error is not None]
    assert [(event.request, event.finish_reason) for event in errors] == [(numbers[1], "error")]
    assert "RuntimeError: on purpose" in str(errors[0].error)
    found = [event.token_id for event in events if event.request == numbers[0]]
    assert found == expected_texts(peer, first, beams(3, 10))[0]
    check_idle(engine)


def test_a_search_without_a_token_to_choose_is_ended_with_its_reason(peer: Any) -> None:
    engine = engine_of(peer)
    (output,) = engine.generate([[5, 6]], beams(2, 4, bad_words=[[token] for token in range(211)]))
    assert (output.text, output.token_ids, output.finish_reason) == ("", [], "banned")
    check_idle(engine)


def test_texts_scores_and_reasons_of_hypotheses(peer: Any) -> None:
    engine = engine_of(peer)
    (prompt,) = random_prompts(211, [9], 3)
    (output,) = engine.generate([prompt], beams(4, 10, num_samples=4, logprobs=2))
    table = {}
    for completion in output.completions:
        assert completion.finish_reason == ("stop" if completion.token_ids[-1] == 0 else "length")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 10
        assert completion.logprobs is not None
        assert [item.token_id for item in completion.logprobs] == completion.token_ids
        logits = engine.logits([*prompt, *completion.token_ids])[len(prompt) - 1 : -1].double()
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.token_ids)[:, None]).sum()
        assert completion.cumulative_logprob == pytest.approx(float(own), abs=1e-4)
        assert completion.score == pytest.approx(float(own) / len(completion.token_ids), abs=1e-4)
        table[tuple(completion.token_ids)] = completion.cumulative_logprob / len(completion.token_ids)  # type: ignore[operator]
    assert list(table.values()) == sorted(table.values(), reverse=True)
    assert len(table) == 4


@pytest.mark.parametrize(
    ("options", "params", "words"),
    [
        ({"max_batch_size": 4}, {"num_beams": 5}, "num_beams is 5; this engine runs at most 4"),
        ({"num_slots": 50}, {"num_beams": 4, "max_new_tokens": 13}, "needs 51 slots of the KV cache, which has 50"),
    ],
)
def test_searches_that_cannot_be_met_are_refused(peer: Any, options: Any, params: Any, words: str) -> None:
    engine = engine_of(peer, **options)
    with pytest.raises(InvalidRequest, match=words):
        engine.generate([[5, 6, 7]], SamplingParams(**params))
    assert engine.stats.tokens_computed == 0
