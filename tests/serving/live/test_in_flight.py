"""Requests share the engine's steps: a short request does not wait for a long one, and each gets its own answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from labkit.engine import Engine, SamplingParams
from labkit.serving.server import Server
from tests.patience import PATIENCE
from tests.sampled import one_in
from tests.serving.live.requests import (
    PROMPT,
    ask,
    ensemble,
    fastertransformer,
    gptj,
    infer,
    long_request,
    stream,
    streaming,
)

LONG = 480


ATTEMPTS = 6
"""The number of attempts: on a busy machine, the client can be too late with its short request."""


@pytest.mark.parametrize("short", ["gptj", "fastertransformer", "ensemble"])
@pytest.mark.parametrize("long", one_in(3, ["gptj", "fastertransformer", "ensemble"]))
def test_a_long_request_does_not_hold_a_short_one(served: Server, long: str, short: str) -> None:
    assert not all(was_held(served, long, short) for _ in range(ATTEMPTS))


def was_held(served: Server, long: str, short: str) -> bool:
    """Whether a long request ended before a short request that was sent after it. Then the short request was held up."""
    ended = threading.Event()

    def run_long() -> None:
        # A second stream of gptj shows when the engine runs. The long request came before it.
        if long == "gptj":
            stream(served, long_request("gptj", LONG))
        else:
            infer(served, long, long_request(long, LONG))
        ended.set()

    thread = threading.Thread(target=run_long)
    thread.start()
    with streaming(served, long_request("gptj", LONG, stream=True)) as found:
        found.get(timeout=PATIENCE)
        if short == "gptj":
            ask(served, text_input="The", max_new_tokens=1)
        elif short == "ensemble":
            infer(served, "ensemble", ensemble(["The"], 1))
        else:
            infer(served, "fastertransformer", fastertransformer([[260]], 1))
        held = ended.is_set()
    thread.join()
    return held


def test_64_mixed_requests_each_get_their_own(served: Server, offline: Engine) -> None:
    def ask_one(number: int) -> Any:
        prompt, new_tokens, seed = f"{PROMPT} number {number}", 1 + 7 * number % 40, number
        top_k = (1, 5, 40)[number % 3]
        if number % 4 == 0:
            made = infer(served, "ensemble", ensemble([prompt], new_tokens, runtime_top_k=top_k, random_seed=seed))
            return made["OUTPUT_0"][0, 0].removeprefix(prompt)
        temperature = 0.0 if top_k == 1 else 1.0
        given = {"max_new_tokens": new_tokens, "temperature": temperature, "top_k": top_k, "seed": seed}
        responses = stream(served, gptj(text_input=prompt, stream=number % 4 == 1, **given))
        return "".join(response["text_output"][0] for response in responses)

    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(ask_one, range(64)))
    for number, text in enumerate(texts):
        top_k = (1, 5, 40)[number % 3]
        sampling = {"temperature": 1.0, "top_k": top_k, "seed": number} if top_k > 1 else {}
        params = SamplingParams(max_new_tokens=1 + 7 * number % 40, **sampling)  # type: ignore[arg-type]
        (output,) = offline.generate([f"{PROMPT} number {number}"], params)
        assert text == output.text.removesuffix("<|endoftext|>"), number
