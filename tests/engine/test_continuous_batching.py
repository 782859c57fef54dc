"""Requests that arrive, wait, share prefixes, are preempted and end get the same tokens as when each runs alone."""

from __future__ import annotations

import dataclasses
import gc
import random
import threading
from typing import Any

import psutil
import pytest
import torch

import labkit
from labkit import ops
from labkit.engine import Engine, SamplingParams
from labkit.errors import InsufficientResources, InvalidRequest
from tests.models import FunctionForward, engine_of, random_peer, random_prompts
from tests.patience import PATIENCE

SHAPE = "rotary below the head"  # context 61, vocabulary 211


@pytest.fixture(scope="module")
def peer() -> Any:
    return random_peer(SHAPE, 21)


def poison(engine: Engine) -> None:
    """Fill the cache with NaN, so that reading a slot before it is written gives wrong results."""
    loop = engine._ready()
    loop.add([])
    loop.scheduler.waiting.clear()
    assert loop._cache is not None
    loop._cache.keys.fill_(torch.nan)
    loop._cache.values.fill_(torch.nan)


def check_idle(engine: Engine) -> None:
    """Check that nothing runs, that no slot is referenced, and that all slots except those of kept prefixes are free."""
    stats = engine.stats
    assert (stats.running, stats.waiting, engine.has_unfinished) == (0, 0, False)
    assert stats.free_slots == stats.num_slots
    pool = engine._ready().scheduler.pool
    assert not pool.allocator.references.any()
    assert pool.allocator.num_free + pool.prefixes.num_slots == stats.num_slots
    assert not engine._running


def alone(peer: Any, prompts: list[list[int]], params: list[SamplingParams]) -> list[list[list[int]]]:
    """The tokens of every sample when each request runs alone, with its whole prompt at once and without reused prefixes."""
    engine = engine_of(peer, prefix_reuse=False, max_step_tokens=100)
    params = [dataclasses.replace(chosen, speculate=0) for chosen in params]
    outputs = [engine.generate([p], s)[0] for p, s in zip(prompts, params, strict=True)]
    assert engine.stats.preemptions == engine.stats.tokens_reused == 0
    return [[completion.token_ids for completion in output.completions] for output in outputs]


def requests(draw: random.Random, count: int) -> tuple[list[list[int]], list[SamplingParams]]:
    """Make random greedy and sampled requests. Many of the prompts begin with the same tokens.

    Some requests ask for several samples, speculative guesses or a short `memory_len`.
    """
    stems = random_prompts(211, [5, 40], draw.randrange(1000))
    prompts, params = [], []
    for number in range(count):
        stem = draw.choice([[], *stems])
        (tail,) = random_prompts(211, [draw.randint(1, 12)], draw.randrange(10**6))
        prompts.append([*stem, *tail][:50])
        chosen: dict[str, Any] = {"max_new_tokens": draw.randint(1, 61 - len(prompts[-1])), "ignore_eos": draw.random() < 0.8}
        if draw.random() < 0.4:
            chosen |= {"temperature": 0.8, "seed": number, "num_samples": draw.choice([1, 1, 3])}
        chosen["memory_len"] = draw.choice([None, None, None, len(prompts[-1]) + 3])
        params.append(SamplingParams(**chosen, speculate=draw.choice([0, 0, 4])))
    return prompts, params


@pytest.mark.parametrize(("seed", "num_slots"), [(1, 62), (2, 100), (3, 150), (4, 62), (5, 600), (6, 80)])
def test_random_arrivals_cancellations_and_preemptions_leave_every_token_as_it_is_alone(
    peer: Any, seed: int, num_slots: int
) -> None:
    draw = random.Random(seed)
    prompts, params = requests(draw, 16)
    expected = alone(peer, prompts, params)
    rows, tokens, mixed = draw.choice([(3, 9, None), (6, 24, None), (6, 24, 5)])
    engine = engine_of(peer, num_slots=num_slots, max_batch_size=rows, max_step_tokens=tokens, max_mixed_prefill=mixed)
    poison(engine)
    arriving = list(range(len(prompts)))
    ids: dict[int, int] = {}
    made: dict[int, list[list[int]]] = {}
    cancelled: set[int] = set()
    while arriving or engine.has_unfinished:
        while arriving and draw.random() < 0.5:
            index = arriving.pop(0)
            ids[engine.add_request(prompts[index], params[index])] = index
            made[index] = [[] for _ in range(params[index].num_samples)]
        if ids and draw.random() < 0.04:
            victim = draw.choice(list(ids))
            if engine.cancel(victim):
                cancelled.add(ids[victim])
                assert not engine.cancel(victim)
        for event in engine.step():
            index = ids[event.request]
            assert index not in cancelled
            made[index][event.sample].append(event.token_id)
    assert len(cancelled) < len(prompts)
    for index, samples in made.items():
        for sample, tokens in enumerate(samples):
            wanted = expected[index][sample]
            assert tokens == (wanted[: len(tokens)] if index in cancelled else wanted), f"request {index}, sample {sample}"
    assert engine.stats.preemptions > 0 or num_slots > 62, "the pool was meant to be tight"
    check_idle(engine)


def test_a_tight_pool_preempts_and_changes_no_token(peer: Any) -> None:
    prompts = random_prompts(211, [8, 9, 7, 10, 5], 3)
    params = [SamplingParams(max_new_tokens=45, temperature=0.7, seed=n, ignore_eos=True) for n in range(5)]
    engine = engine_of(peer, num_slots=90)
    outputs = engine.generate(prompts, params)
    assert engine.stats.preemptions >= 3
    assert [[o.token_ids] for o in outputs] == alone(peer, prompts, params)
    check_idle(engine)


@pytest.mark.parametrize("chunk", [2, 7, 16, 47])
def test_a_prompt_in_chunks_beside_decoding_gives_the_logits_of_the_whole_prompt(chunk: int) -> None:
    """The logits of every step, in float64, are compared with one forward pass over the text so far."""
    double = random_peer(SHAPE, 5, torch.float64)
    whole = engine_of(double)
    engine = engine_of(double, max_batch_size=2, max_step_tokens=chunk + 1)
    poison(engine)
    seen: list[torch.Tensor] = []
    forward = engine._forward

    def noted(*arguments: Any) -> torch.Tensor:
        seen.append(forward(*arguments))
        return seen[-1]

    engine._forward = FunctionForward(noted)
    short, long = random_prompts(211, [2, 47], 5)
    texts: dict[int, list[int]] = {}
    steps_beside = 0
    for prompt, count in ((short, 50), (long, 5)):
        number = engine.add_request(prompt, SamplingParams(max_new_tokens=count, ignore_eos=True))
        texts[number] = list(prompt)
        while len(texts[number]) < len(prompt) + (1 if prompt is short else 5):
            events = engine.step()
            steps_beside += prompt is long and len(texts[number]) == len(prompt)
            for event, row in zip(events, seen.pop(), strict=True):
                expected = whole.logits(texts[event.request])[-1]
                assert torch.allclose(row, expected, rtol=1e-11, atol=1e-11)
                texts[event.request].append(event.token_id)
    assert steps_beside == -(-47 // chunk)


def test_prefix_reuse_changes_no_token_and_computes_each_prefix_once(peer: Any) -> None:
    (stem,) = random_prompts(211, [35], 8)
    prompts = [[*stem, *tail] for tail in random_prompts(211, [3, 9, 1, 6], 9)]
    params = SamplingParams(max_new_tokens=10, ignore_eos=True)
    plain = engine_of(peer, prefix_reuse=False)
    engine = engine_of(peer)
    poison(engine)
    expected = [output.token_ids for output in plain.generate(prompts, params)]
    assert [output.token_ids for output in engine.generate(prompts, params)] == expected
    assert plain.stats.tokens_computed == sum(map(len, prompts)) + 4 * 9
    assert plain.stats.tokens_reused == plain.stats.prefix_slots == 0
    assert engine.stats.tokens_computed == 35 + (3 + 9 + 1 + 6) + 4 * 9
    assert engine.stats.tokens_reused == 3 * 35
    before = engine.stats
    dialogue = [*prompts[1], *expected[1], 7]
    shorter = SamplingParams(max_new_tokens=6, ignore_eos=True)
    assert engine.generate([dialogue], shorter)[0].token_ids == plain.generate([dialogue], shorter)[0].token_ids
    assert engine.stats.tokens_reused - before.tokens_reused == len(dialogue) - 2  # the last new token was never computed
    assert engine.stats.tokens_computed - before.tokens_computed == 2 + 5
    check_idle(engine)
    engine.forget_prefixes()
    assert engine.stats.prefix_slots == 0
    check_idle(engine)


def test_a_swapped_operation_uses_nothing_that_another_one_computed(peer: Any) -> None:
    engine = engine_of(peer, max_step_tokens=8, max_batch_size=4)
    prompts = random_prompts(211, [20, 30], 4)
    params = SamplingParams(max_new_tokens=6, ignore_eos=True)

    def tokens_of(one: Engine) -> list[list[int]]:
        return [output.token_ids for output in one.generate(prompts, params)]

    def wrong(x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        return torch.tanh(x) * weight + bias

    before = tokens_of(engine)
    assert before == tokens_of(engine_of(peer))
    engine.forget_prefixes()
    decoding, prefilling = engine.stream([prompts[0]], params), engine.stream([prompts[1]], params)
    next(decoding)
    number = engine.add_request(prompts[1], params)
    engine.step()
    assert engine.stats.running == 2
    with ops.use(layer_norm=wrong):
        # If a sequence began under one setting and ends under the other, its keys are not reused in prefill or decode.
        list(decoding)
        while engine.has_unfinished:
            engine.step()
        swapped = tokens_of(engine)
        assert swapped == tokens_of(engine_of(peer)) == tokens_of(engine)
        next(prefilling)
    assert swapped != before
    assert tokens_of(engine) == before
    list(prefilling)
    assert tokens_of(engine) == before
    assert not engine.cancel(number)
    check_idle(engine)


def test_an_abandoned_stream_frees_its_slots(peer: Any) -> None:
    engine = engine_of(peer, prefix_reuse=False)
    prompts = random_prompts(211, [9, 14], 6)
    params = SamplingParams(max_new_tokens=30, ignore_eos=True)
    never_begun = engine.stream(prompts, params)
    closed, dropped = engine.stream(prompts, params), engine.stream(prompts, params)
    next(closed)
    next(dropped)
    assert engine.stats.running == 4
    assert engine.stats.free_slots < engine.stats.num_slots
    closed.close()  # type: ignore[attr-defined]
    assert engine.stats.running == 2
    del dropped, never_begun
    gc.collect()
    check_idle(engine)


def test_a_stream_does_not_stop_while_others_run_and_loses_no_event(peer: Any) -> None:
    engine = engine_of(peer, max_batch_size=3, max_step_tokens=8)
    prompts, params = requests(random.Random(12), 6)
    expected = alone(peer, prompts, params)
    number = engine.add_request(prompts[0], params[0])
    streamed = list(engine.stream(prompts[1:3], params[1:3]))
    generated = engine.generate(prompts[3:], params[3:])
    events = []
    while engine.has_unfinished:
        events += engine.step()
    events += engine.step()
    assert {event.request for event in events} == {number}
    assert [e.token_id for e in events if e.sample == 0] == expected[0][0]
    for index in (0, 1):
        assert [e.token_id for e in streamed if (e.request, e.sample) == (index, 0)] == expected[1 + index][0]
    assert [[c.token_ids for c in o.completions] for o in generated] == expected[3:]
    check_idle(engine)


def test_an_added_request_that_another_call_finished_is_unfinished_until_its_events_are_returned(peer: Any) -> None:
    engine = engine_of(peer, max_batch_size=3)
    short, long = SamplingParams(max_new_tokens=3, ignore_eos=True), SamplingParams(max_new_tokens=8, ignore_eos=True)
    number = engine.add_request([1, 2, 3], short)
    engine.generate([[4, 5]], long)
    events = []
    while engine.has_unfinished:
        events += engine.step()
    assert [event.request for event in events] == [number] * 3
    number, other = engine.add_request([1, 2, 3], short), engine.add_request([3, 2, 1], short)
    engine.generate([[4, 5]], long)
    assert engine.cancel(number)
    assert not engine.cancel(number)
    assert [event.request for event in engine.step()] == [other] * 3
    check_idle(engine)
    engine.add_request([1, 2, 3], short)
    engine.generate([[4, 5]], long)
    engine.close()
    assert not engine.has_unfinished


def test_threads_that_generate_at_once_share_the_steps_and_get_their_own_tokens(peer: Any) -> None:
    engine = engine_of(peer, max_batch_size=4, max_step_tokens=16, num_slots=150)
    prompts, params = requests(random.Random(31), 8)
    expected = alone(peer, prompts, params)
    found: dict[int, list[list[int]]] = {}

    def work(index: int) -> None:
        (output,) = engine.generate([prompts[index]], params[index])
        found[index] = [completion.token_ids for completion in output.completions]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [found[index] for index in range(len(prompts))] == expected
    check_idle(engine)


def test_a_step_that_is_interrupted_ends_its_caller_alone(peer: Any) -> None:
    """The step is interrupted in the forward pass, in sampling, or between two tokens."""
    params = SamplingParams(max_new_tokens=12, temperature=0.9, seed=3, ignore_eos=True)
    prompts = random_prompts(211, [6, 11], 14)
    expected = [engine_of(peer).generate([p], params)[0].token_ids for p in prompts]
    for place in ("forward", "sample", "append"):
        engine = engine_of(peer)
        mine = engine.stream([prompts[0]], params)
        got = [next(mine).token_id for _ in range(3)]
        other = engine.stream([prompts[1]], params)
        next(other)
        sequence = next(s for s in engine._running if s.prompt == prompts[1])
        sampler, forward = engine._ready()._sampler, engine.forward
        owner, name, real = {
            "forward": (forward, "forward", forward.forward),
            "sample": (sampler, "sample", sampler.sample),
            "append": (sequence, "append", sequence.append),
        }[place]

        def fail(*arguments: Any) -> Any:
            raise KeyboardInterrupt("on purpose")

        setattr(owner, name, fail)
        with pytest.raises(KeyboardInterrupt, match="on purpose"):
            next(other)
        setattr(owner, name, real)
        got += [event.token_id for event in mine]
        assert got == expected[0], place
        check_idle(engine)


def test_a_prompt_and_its_new_tokens_that_do_not_fit_the_cache_are_refused_before_anything_runs(peer: Any) -> None:
    engine = engine_of(peer, num_slots=40)
    with pytest.raises(InvalidRequest, match=r"30 tokens with 12 new tokens needs 41 slots of the KV cache, which has 40"):
        engine.generate([[5] * 3, [5] * 30], SamplingParams(max_new_tokens=12))
    with pytest.raises(InvalidRequest, match="41 slots"):
        engine.add_request([5] * 30, SamplingParams(max_new_tokens=12))
    assert engine.stats.tokens_computed == 0
    assert engine._ready()._cache is None, "memory was taken for a request that was refused"
    assert len(engine.generate([[5] * 30], SamplingParams(max_new_tokens=11, ignore_eos=True))[0].token_ids) == 11


def test_loading_takes_no_memory_for_the_cache_and_its_size_can_be_given_in_bytes(peer: Any) -> None:
    engine = engine_of(peer, cache_bytes=101 * 2 * 2 * 96 * 4 + 7)
    assert engine._loop is None
    assert engine.stats.num_slots == 100
    assert engine_of(peer).stats.num_slots == 64 * 61
    assert labkit.load("gptj-tiny", device="cpu", num_slots=300, max_batch_size=2).stats.num_slots == 300
    with pytest.raises(InvalidRequest, match="max_step_tokens is 2"):
        labkit.load("no-such-model", max_batch_size=2, max_step_tokens=2)
    for options, error, words in (
        ({"num_slots": 0}, InvalidRequest, "num_slots is 0"),
        ({"num_slots": 5, "cache_bytes": 5}, InvalidRequest, "both given"),
        ({"cache_bytes": 5}, InvalidRequest, "1536 for one token"),
        ({"num_slots": 10**12}, InsufficientResources, "are free on cpu"),
    ):
        with pytest.raises(error, match=words):
            engine_of(peer, **options).generate([[1]])


def test_the_caches_memory_can_be_taken_before_the_first_request(peer: Any) -> None:
    engine, lazy = engine_of(peer, cache_bytes=2**28), engine_of(peer, cache_bytes=2**28)
    gc.collect()  # otherwise the memory of earlier engines may be freed while this one takes its memory
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    engine.occupy_cache()
    assert process.memory_info().rss - before > 0.9 * 2**28
    assert engine.generate([[1, 2]])[0].token_ids == lazy.generate([[1, 2]])[0].token_ids
    assert process.memory_info().rss - before < 1.5 * 2**28
    with pytest.raises(InvalidRequest, match="before the first request"):
        lazy.occupy_cache()


@pytest.mark.parametrize("step", [200, 7])
def test_log_probabilities_of_prompts_are_the_models_own(peer: Any, step: int) -> None:
    """The prompts are computed in chunks or whole, beside others; some are cached already, and one has several samples."""
    prompts = random_prompts(211, [20, 9, 1, 31], 13)
    prompts.append([*prompts[0], 5])
    params = [
        SamplingParams(max_new_tokens=4, ignore_eos=True, prompt_logprobs=count, **wishes)
        for count, wishes in (
            (2, {}),
            (None, {}),
            (3, {"speculate": 3}),
            (0, {"temperature": 1.0, "seed": 2, "num_samples": 3}),
            (1, {"soft_prompt": torch.randn(3, 96, generator=torch.Generator().manual_seed(1))}),
        )
    ]
    engine = engine_of(peer, max_batch_size=6, max_step_tokens=step, num_slots=100)
    engine.generate([prompts[0]], SamplingParams(max_new_tokens=1))
    outputs = engine.generate(prompts, params)
    plain = alone(peer, prompts, [dataclasses.replace(chosen, prompt_logprobs=None) for chosen in params])
    assert [[c.token_ids for c in output.completions] for output in outputs] == plain
    assert outputs[1].prompt_logprobs is None
    for index in (0, 2, 3):
        found = outputs[index].prompt_logprobs
        assert found is not None
        assert found[0] is None
        table = torch.log_softmax(engine.logits(prompts[index]).double(), -1)
        for place, item in enumerate(found[1:], 1):
            assert item is not None
            row = table[place - 1]
            assert item.token_id == prompts[index][place]
            assert item.logprob == pytest.approx(float(row[item.token_id]), abs=1e-4)
            assert [token for token, _ in item.top] == row.topk(params[index].prompt_logprobs or 0).indices.tolist()
        assert len(found) == len(prompts[index])
    behind_soft = outputs[4].prompt_logprobs
    assert behind_soft is not None
    assert [item and item.token_id for item in behind_soft] == [None, *prompts[4][1:]]
    without = outputs[0].prompt_logprobs
    assert without is not None
    assert abs(behind_soft[5].logprob - without[5].logprob) > 1e-3  # type: ignore[union-attr]
    check_idle(engine)
