"""Streams in an event loop do not block the loop, share the running batch, and free their slots when they are abandoned."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest
import torch

from labkit.engine import Engine, SamplingParams
from labkit.errors import InvalidRequest, NotAvailable, RankFailed, RequestFailed
from tests.engine.test_continuous_batching import check_idle
from tests.models import FunctionForward, engine_of, random_peer, random_prompts
from tests.patience import PATIENCE, wait_for

PARAMS = [
    SamplingParams(max_new_tokens=40, ignore_eos=True),
    SamplingParams(max_new_tokens=30, temperature=0.9, seed=4, num_samples=2, ignore_eos=True),
    SamplingParams(max_new_tokens=12, num_beams=3, ignore_eos=True),
]
LONG = SamplingParams(max_new_tokens=50, ignore_eos=True)


@pytest.fixture(scope="module")
def peer() -> Any:
    return random_peer("rotary below the head", 21)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return random_prompts(211, [7, 12, 5], 3)


@pytest.fixture(scope="module")
def expected(peer: Any, prompts: list[list[int]]) -> list[list[list[int]]]:
    return tokens_of(engine_of(peer).generate(prompts, PARAMS))


def tokens_of(outputs: Any) -> list[list[list[int]]]:
    return [[completion.token_ids for completion in output.completions] for output in outputs]


async def tokens(engine: Engine, prompts: Any, params: Any) -> dict[tuple[int, int], list[int]]:
    made: dict[tuple[int, int], list[int]] = {}
    async for event in engine.astream(prompts, params):
        made.setdefault((event.request, event.sample), []).append(event.token_id)
    return made


async def idle(engine: Engine) -> None:
    for _ in range(3000):
        if not engine.stats.running and engine._async_steps._thread is None:
            break
        await asyncio.sleep(0.01)
    check_idle(engine)


def test_streams_share_the_batch_with_each_other_and_with_threads(peer: Any, prompts: list[list[int]], expected: Any) -> None:
    engine = engine_of(peer)
    most = 0

    async def main() -> None:
        nonlocal most
        loop = asyncio.get_running_loop()
        beside = loop.run_in_executor(None, engine.generate, prompts, PARAMS)
        streams = [asyncio.create_task(tokens(engine, [p], params)) for p, params in zip(prompts, PARAMS, strict=True)]
        whole = asyncio.create_task(engine.agenerate(prompts, PARAMS))
        while not all(stream.done() for stream in streams):
            most = max(most, engine.stats.running)
            await asyncio.sleep(0.001)
        for wanted, stream in zip(expected, streams, strict=True):
            assert await stream == {(0, sample): made for sample, made in enumerate(wanted)}
        assert tokens_of(await whole) == tokens_of(await beside) == expected
        await idle(engine)

    asyncio.run(main())
    assert most > 4, "the streams ran one after the other"


def test_the_event_loop_goes_on_while_a_step_runs(peer: Any, prompts: list[list[int]], expected: Any) -> None:
    """A step waits until the event loop has done something. If the event loop waited for the step, the loop and the step would
    wait for each other forever.
    """
    engine = engine_of(peer)
    forward = engine._forward
    beat = threading.Event()
    waited = []

    def patient(*given: Any) -> Any:
        beat.clear()
        waited.append(beat.wait(PATIENCE))
        return forward(*given)

    engine._forward = FunctionForward(patient)

    async def heart() -> None:
        while True:
            beat.set()
            await asyncio.sleep(0.001)

    async def main() -> None:
        beating = asyncio.create_task(heart())
        assert await tokens(engine, [prompts[0]], PARAMS[0]) == {(0, 0): expected[0][0]}
        beating.cancel()

    asyncio.run(main())
    assert len(waited) >= 40
    assert all(waited)


def test_what_is_given_up_gives_its_slots_back(peer: Any, prompts: list[list[int]]) -> None:
    engine = engine_of(peer, prefix_reuse=False)

    async def main() -> None:
        task = asyncio.create_task(tokens(engine, prompts[:2], LONG))
        while not engine.stats.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(engine)
        closed, dropped = engine.astream([prompts[0]], LONG), engine.astream([prompts[1]], LONG)
        never_begun = engine.astream([prompts[1]], LONG)
        await anext(closed)
        await anext(dropped)
        assert engine.stats.running == 2
        await closed.aclose()
        del dropped, never_begun
        gc.collect()
        await idle(engine)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await engine.agenerate(prompts, LONG)
        await idle(engine)

    asyncio.run(main())


def test_a_loop_that_ends_with_streams_under_way_leaves_nothing(peer: Any, prompts: list[list[int]]) -> None:
    engine = engine_of(peer)

    async def main() -> None:
        asyncio.create_task(tokens(engine, [prompts[0]], LONG))  # noqa: RUF006 - nobody waits for it
        await anext(engine.astream([prompts[1]], LONG))

    asyncio.run(main())
    asyncio.run(idle(engine))


def test_refusals_and_failures_reach_their_own_stream(
    peer: Any, prompts: list[list[int]], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(peer)

    async def main() -> None:
        mine = asyncio.create_task(tokens(engine, [prompts[0]], PARAMS[0]))
        with pytest.raises(InvalidRequest, match="a prompt is empty"):
            await anext(engine.astream([[]]))
        soft_prompt = torch.full((1, engine.config.hidden_size), 3e38)
        with pytest.raises(RequestFailed, match="are not finite"):
            await engine.agenerate([[4]], SamplingParams(soft_prompt=soft_prompt))
        assert await mine == {(0, 0): expected[0][0]}
        await idle(engine)

        def lost(*_: Any) -> Any:
            raise RankFailed("rank 1 is gone")

        streams = [asyncio.create_task(tokens(engine, [prompt], LONG)) for prompt in prompts]
        while engine.stats.running < 3:
            await asyncio.sleep(0.001)
        with monkeypatch.context() as patched:
            patched.setattr(engine, "_forward", FunctionForward(lost))
            found = await asyncio.gather(*streams, return_exceptions=True)
        assert [(type(error), str(error)) for error in found] == [(RankFailed, "rank 1 is gone")] * 3
        await idle(engine)
        late = asyncio.create_task(tokens(engine, [prompts[1]], LONG))
        while not engine.stats.running:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(engine.close)
        with pytest.raises(NotAvailable, match="the engine was closed"):
            await late
        with pytest.raises(NotAvailable, match="the engine was closed"):
            await engine.agenerate(prompts)

    asyncio.run(main())


@pytest.mark.parametrize("close", [True, False])
def test_weights_are_freed_with_the_engine_without_a_cyclic_collection(
    peer: Any, prompts: list[list[int]], close: bool
) -> None:
    async def use() -> weakref.ref[Any]:
        engine = engine_of(peer)
        await tokens(engine, prompts, PARAMS)
        await idle(engine)
        engine.generate(prompts, PARAMS)
        if close:
            engine.close()
        return weakref.ref(engine.model)

    gc.collect()
    gc.disable()
    try:
        freed = asyncio.run(use())
        wait_for(lambda: freed() is None, "the end of the model's weights")
    finally:
        gc.enable()
