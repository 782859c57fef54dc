"""A failure in a step ends only the request that caused it, with the reason. The tokens of other requests stay the same."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import labkit
from labkit import ops
from labkit.engine import Engine, SamplingParams, TokenEvent
from labkit.engine.schedule.sequence import Sequence
from labkit.errors import NotAvailable, RankFailed, RequestFailed
from labkit.torch_state import undisturbed
from tests.engine.test_continuous_batching import check_idle
from tests.models import engine_of, random_peer, random_prompts

MARK = 200
"""A token that only the prompt of the failing request holds: no other request has it in its prompt or generates it."""
BAN = {"bad_words": [[MARK]], "ignore_eos": True}
BYSTANDERS = [
    SamplingParams(max_new_tokens=14, **BAN),
    SamplingParams(max_new_tokens=12, temperature=0.9, top_p=0.9, seed=5, num_samples=2, **BAN),
    SamplingParams(
        max_new_tokens=10, temperature=1.3, top_k=20, seed=8, repetition_penalty=1.2, speculate=3, logprobs=1, **BAN
    ),
    SamplingParams(max_new_tokens=9, num_beams=3, **BAN),
]
CULPRIT = SamplingParams(max_new_tokens=20, temperature=0.7, seed=1, logprobs=0, prompt_logprobs=0, num_samples=2, **BAN)


@pytest.fixture(scope="module")
def peer() -> Any:
    return random_peer("rotary below the head", 21)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [[token % MARK for token in prompt] for prompt in random_prompts(MARK, [7, 12, 5, 9], 3)]


@pytest.fixture(scope="module")
def expected(peer: Any, prompts: list[list[int]]) -> list[list[list[int]]]:
    outputs = engine_of(peer).generate(prompts, BYSTANDERS)
    return [[completion.token_ids for completion in output.completions] for output in outputs]


class Fails:
    """Calls `real`, but raises an error if `culprit` returns true for the arguments."""

    def __init__(self, real: Callable[..., Any], culprit: Callable[..., bool], error: Exception) -> None:
        self.real, self.culprit, self.error = real, culprit, error

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self.culprit(*given):
            raise self.error
        return self.real(*given, **named)


def is_marked(sequence: Sequence) -> bool:
    return MARK in sequence.prompt


def broken(engine: Engine, place: str, error: Exception) -> tuple[Any, str, Fails]:
    """For a place where work for one request is done, return the object, the name of the object's method, and a replacement for
    the method that fails for the marked request.
    """
    loop = engine._ready()
    sampler = loop._sampler

    def marked_row(_logits: Any, rows: Any) -> bool:
        return any(is_marked(entry.sequence) for entry in loop.scheduler.running if entry.row in rows)

    owner, name, culprit = {
        "forward": (engine.forward, "forward", lambda batch, cache: MARK in batch.token_ids.tolist()),
        "submit": (engine.forward, "submit", lambda batch, cache: MARK in batch.token_ids.tolist()),
        "join": (sampler, "join", lambda row, sequence: is_marked(sequence)),
        "sample": (sampler, "sample", marked_row),
        "edit": (sampler, "edit", marked_row),
    }[place]
    return owner, name, Fails(getattr(owner, name), culprit, error)


@pytest.mark.parametrize("place", ["forward", "submit", "join", "sample", "edit", "append", "score"])
def test_a_request_whose_own_work_fails_is_ended_alone(
    peer: Any, prompts: list[list[int]], expected: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(peer, max_step_tokens=70)
    error = ValueError("on purpose")
    ids = [engine.add_request(prompt, params) for prompt, params in zip(prompts, BYSTANDERS, strict=True)]
    culprit = engine.add_request([3, MARK, 4], CULPRIT)
    if place == "append":
        victim = next(sequence for sequence in engine._running if is_marked(sequence))
        made: list[int] = []
        monkeypatch.setattr(victim, "append", Fails(victim.append, lambda *_: made.append(1) or len(made) == 4, error))
    elif place == "score":
        from labkit.engine import step_loop

        fails = Fails(step_loop._score_chunk, lambda chunk, _: is_marked(chunk.entry.sequence), error)
        monkeypatch.setattr(step_loop, "_score_chunk", fails)
    else:
        monkeypatch.setattr(*broken(engine, place, error))
    events: list[TokenEvent] = []
    while engine.has_unfinished:
        events += engine.step()
    (last,) = (event for event in events if event.error is not None)
    assert (last.request, last.finish_reason, last.token_id, last.text) == (culprit, "error", -1, "")
    assert isinstance(last.error, RequestFailed)
    assert f"request {culprit} failed" in str(last.error)
    assert "ValueError: on purpose" in str(last.error)
    assert last.error.__cause__ is error
    assert events.index(last) == max(n for n, event in enumerate(events) if event.request == culprit)
    for number, samples in zip(ids, expected, strict=True):
        for sample, tokens in enumerate(samples):
            assert [e.token_id for e in events if (e.request, e.sample) == (number, sample)] == tokens
    check_idle(engine)


def test_generate_and_stream_raise_it_and_others_go_on(peer: Any, prompts: list[list[int]], expected: Any) -> None:
    engine = engine_of(peer)
    mine = engine.stream(prompts[:2], BYSTANDERS[:2])
    got = [next(mine)]
    owner, name, fails = broken(engine, "join", ValueError("on purpose"))
    setattr(owner, name, fails)
    with pytest.raises(RequestFailed, match=r"request 1 failed.*ValueError: on purpose"):
        engine.generate([prompts[2], [MARK]], [BYSTANDERS[2], CULPRIT])
    other = engine.stream([[MARK]], CULPRIT)
    with pytest.raises(RequestFailed, match="request 0 failed"):
        list(other)
    got += list(mine)
    for index in (0, 1):
        for sample, tokens in enumerate(expected[index]):
            assert [e.token_id for e in got if (e.request, e.sample) == (index, sample)] == tokens
    check_idle(engine)


def test_a_pass_that_fails_for_all_ends_all_with_the_reason_and_the_engine_goes_on(
    peer: Any, prompts: list[list[int]], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(peer)
    ids = [engine.add_request(prompt, params) for prompt, params in zip(prompts[:3], BYSTANDERS[:3], strict=True)]
    engine.step()
    ids.append(engine.add_request(prompts[3], BYSTANDERS[3]))
    with monkeypatch.context() as patched:
        patched.setattr(engine.forward, "forward", Fails(engine.forward.forward, lambda *_: True, MemoryError("no room")))
        events = []
        while engine.has_unfinished:
            events += engine.step()
    assert sorted(event.request for event in events) == ids
    assert all("MemoryError: no room" in str(event.error) for event in events)
    check_idle(engine)
    outputs = engine.generate(prompts, BYSTANDERS)
    assert [[completion.token_ids for completion in output.completions] for output in outputs] == expected


def test_a_pass_that_fails_once_costs_nobody_a_token(
    peer: Any, prompts: list[list[int]], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fatal in (1, 2, 3, 6):
        engine = engine_of(peer)
        calls: list[int] = []

        def counted(*_: Any, calls: list[int] = calls, fatal: int = fatal) -> bool:
            calls.append(1)
            return len(calls) == fatal

        monkeypatch.setattr(engine.forward, "forward", Fails(engine.forward.forward, counted, RuntimeError("once")))
        outputs = engine.generate(prompts, BYSTANDERS)
        assert [[completion.token_ids for completion in output.completions] for output in outputs] == expected
        check_idle(engine)


@pytest.mark.parametrize("name", ["plan", "commit"])
def test_a_fault_in_the_bookkeeping_is_told_to_all_and_leaves_nothing_behind(
    peer: Any, prompts: list[list[int]], expected: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(peer)
    stream = engine.stream(prompts[:2], BYSTANDERS[:2])
    next(stream)
    number = engine.add_request(prompts[3], BYSTANDERS[3])
    scheduler = engine._ready().scheduler
    monkeypatch.setattr(scheduler, name, Fails(getattr(scheduler, name), lambda *_: True, IndexError("a fault")))
    (event,) = engine.step()
    assert (event.request, event.finish_reason) == (number, "error")
    with pytest.raises(RequestFailed, match="IndexError: a fault"):
        list(stream)
    check_idle(engine)
    outputs = engine.generate(prompts, BYSTANDERS)
    assert [[completion.token_ids for completion in output.completions] for output in outputs] == expected


def test_what_a_swapped_operation_raises_comes_as_it_is(peer: Any, prompts: list[list[int]], expected: Any) -> None:
    engine = engine_of(peer)
    number = engine.add_request(prompts[0], BYSTANDERS[0])
    with ops.use(layer_norm=Fails(ops.layer_norm, lambda *_: True, ZeroDivisionError("mine"))):
        with pytest.raises(ZeroDivisionError, match="mine"):
            engine.generate(prompts[1:], BYSTANDERS[1:])
        with pytest.raises(ZeroDivisionError, match="mine"):
            engine.step()
    events = []
    while engine.has_unfinished:
        events += engine.step()
    assert [event.token_id for event in events if event.request == number] == expected[0][0]
    check_idle(engine)


def test_a_lost_rank_is_raised_to_everybody(peer: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(peer)
    engine.add_request(prompts[0], BYSTANDERS[0])
    monkeypatch.setattr(engine.forward, "forward", Fails(engine.forward.forward, lambda *_: True, RankFailed("rank 1 is gone")))
    with pytest.raises(RankFailed, match="rank 1 is gone"):
        engine.generate(prompts[1:3], BYSTANDERS[1:3])
    with pytest.raises(RankFailed, match="rank 1 is gone"):
        engine.step()


@pytest.mark.parametrize("kind", ["int8", "int4", "w8a8", "sparse24_int8"])
def test_quantized_weights_do_not_make_numbers_of_nan(kind: str) -> None:
    with labkit.load(device="cpu", dtype=kind) as engine:
        huge = torch.full((2, engine.config.hidden_size), 3e38)
        with pytest.raises(RequestFailed, match=r"are not finite.*soft_prompt"):
            engine.generate([[5, 6]], SamplingParams(soft_prompt=huge))


def test_weights_or_prompts_that_make_no_numbers_are_told(peer: Any, prompts: list[list[int]], expected: Any) -> None:
    engine = engine_of(peer)
    number = engine.add_request(prompts[0], BYSTANDERS[0])
    huge = torch.full((2, 96), 3e38)
    for params in (SamplingParams(soft_prompt=huge), SamplingParams(soft_prompt=huge, num_beams=2)):
        with pytest.raises(RequestFailed, match=r"are not finite.*soft_prompt"):
            engine.generate([[5, 6]], params)
    events = []
    while engine.has_unfinished:
        events += engine.step()
    assert [event.token_id for event in events if event.request == number] == expected[0][0]
    with torch.no_grad():
        engine.model.layers[0].ln_1_weight.fill_(torch.nan)
    with pytest.raises(RequestFailed, match=r"are not finite.*weights"):
        Engine(engine.model).generate([[5, 6]])


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 3}])
def test_where_every_token_is_forbidden_the_request_ends_with_its_reason(peer: Any, params: dict[str, Any]) -> None:
    engine = engine_of(peer)
    for bans in ({"bad_words": [[token] for token in range(211)]}, {"bad_words": [[5, token] for token in range(211)]}):
        (output,) = engine.generate([[4, 5]], SamplingParams(**bans, **params))
        assert (output.token_ids, output.finish_reason) == ([], "banned")
    (output,) = engine.generate([[4, 5]], SamplingParams(stop_token_ids=range(211), min_new_tokens=2, **params))
    assert (output.token_ids, output.finish_reason) == ([], "banned")
    check_idle(engine)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's default reaction to Ctrl-C, even if the tests run in the background of a shell, where Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_at_any_moment_ends_its_caller_alone(peer: Any, prompts: list[list[int]], expected: Any) -> None:
    """Signals arrive in the middle of steps, but no other caller's request loses a token or a slot."""
    engine = engine_of(peer)
    draw = random.Random(4)
    long = SamplingParams(max_new_tokens=45, temperature=0.8, seed=2, num_samples=3, ignore_eos=True)
    (wanted,) = engine.generate([prompts[0]], long)
    number = engine.add_request(prompts[0], long)
    events: list[TokenEvent] = []
    interrupted = 0
    before = signal.getsignal(signal.SIGINT)
    for _ in range(25):
        timer = threading.Thread(
            target=lambda wait: (time.sleep(wait), os.kill(os.getpid(), signal.SIGINT)), args=(draw.random() / 60,)
        )
        try:
            timer.start()
            while timer.is_alive():
                engine.generate(prompts[1:], BYSTANDERS[1:])
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        timer.join()
        assert signal.getsignal(signal.SIGINT) is before
        assert set(engine._running.values()) <= set(engine._added.values())
    assert interrupted
    while engine.has_unfinished:
        events += engine.step()
    events += engine.step()
    for sample, completion in enumerate(wanted.completions):
        assert [e.token_id for e in events if (e.request, e.sample) == (number, sample)] == completion.token_ids
    check_idle(engine)


@pytest.mark.parametrize("where", ["__enter__", "__exit__"])
@pytest.mark.parametrize("event", ["call", "return"])
def test_ctrl_c_leaves_the_callers_gradients_as_they_were(peer: Any, prompts: list[list[int]], where: str, event: str) -> None:
    """A signal arrives while the engine switches gradients off or on again."""
    code = getattr(undisturbed, where).__code__
    engine = engine_of(peer)
    for before in (True, False):
        left = [1]

        def interrupt(frame: Any, what: str, _: Any, left: list[int] = left) -> None:
            if frame.f_code is code and what == event and left:
                left.pop()
                raise KeyboardInterrupt

        with torch.set_grad_enabled(before):
            sys.setprofile(interrupt)
            try:
                with pytest.raises(KeyboardInterrupt):
                    engine.generate([prompts[0]], BYSTANDERS[0])
            finally:
                sys.setprofile(None)
            assert torch.is_grad_enabled() is before
    check_idle(engine)


def test_a_closed_engine_says_so_to_all(peer: Any, prompts: list[list[int]]) -> None:
    engine = engine_of(peer)
    stream = engine.stream([prompts[0]], BYSTANDERS[0])
    next(stream)
    with engine:
        engine.add_request(prompts[1], BYSTANDERS[1])
    engine.close()
    check_idle(engine)
    assert engine._ready()._cache is None
    for call in (
        lambda: next(stream),
        engine.step,
        lambda: engine.generate([prompts[0]]),
        lambda: engine.stream([prompts[0]]),
        lambda: engine.add_request(prompts[0]),
        lambda: engine.logits([1, 2]),
        engine.occupy_cache,
    ):
        with pytest.raises(NotAvailable, match="the engine was closed; load it again"):
            call()
