"""A request that cannot be served is refused before anything runs, in one sentence that states the requested number and the
limit.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from labkit.engine import Engine, SamplingParams
from labkit.errors import InvalidRequest, LabkitError
from tests.models import engine_of, random_peer
from tests.refusals import refused


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(random_peer("one head of 80", 1), max_batch_size=4)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": -0.1}, ["temperature", "-0.1"]),
        ({"temperature": math.nan}, ["temperature", "nan"]),
        ({"temperature": "hot"}, ["temperature", "hot"]),
        ({"temperature": math.inf}, ["temperature", "inf"]),
        ({"top_p": 0}, ["top_p", "0", "above 0"]),
        ({"top_p": 1.0001}, ["top_p", "1.0001"]),
        ({"top_k": -1}, ["top_k", "-1"]),
        ({"top_k": 2.5}, ["top_k", "2.5"]),
        ({"max_new_tokens": 0}, ["max_new_tokens", "0"]),
        ({"max_new_tokens": True}, ["max_new_tokens", "True"]),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, ["min_new_tokens 5", "max_new_tokens 4"]),
        ({"repetition_penalty": 0}, ["repetition_penalty", "0"]),
        ({"presence_penalty": math.inf}, ["presence_penalty", "inf"]),
        ({"stop": [""]}, ["stop", "''"]),
        ({"stop": [7]}, ["stop", "7"]),
        ({"stop_token_ids": [-3]}, ["stop_token_ids", "-3"]),
        ({"bad_words": [[]]}, ["bad_words", "[]"]),
        ({"bad_words": [3]}, ["bad_words", "3"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"logprobs": -1}, ["logprobs", "-1"]),
        ({"num_samples": 3}, ["num_samples 3", "temperature"]),
    ],
)
def test_parameter_is_refused_by_name_and_value(given: dict[str, Any], words: list[str]) -> None:
    with refused(words):
        SamplingParams(**given)


@pytest.mark.parametrize(
    ("prompts", "params", "words"),
    [
        ([[]], None, ["empty"]),
        ([], None, ["prompts"]),
        (None, None, ["prompts", "None"]),
        ([1, 2, 3], None, ["list of numbers"]),
        ([[5] * 34], None, ["34", "33"]),
        ([[59]], None, ["59", "58"]),
        ([[-1]], None, ["-1"]),
        ([["x"]], None, ["'x'"]),
        (["text"], None, ["no tokenizer"]),
        ([[5] * 30], SamplingParams(max_new_tokens=5), ["5 new tokens", "30", "33", "room for 4"]),
        ([[5]], SamplingParams(min_new_tokens=40), ["40 new tokens"]),
        ([[5]], SamplingParams(stop_token_ids=[59]), ["stop_token_ids", "59"]),
        ([[5]], SamplingParams(bad_words=[[2, 61]]), ["bad_words", "61"]),
        ([[5]], SamplingParams(stop="end"), ["no tokenizer"]),
        ([[5]], [SamplingParams(), SamplingParams()], ["2 sampling params for 1 prompt"]),
        ([[5]], SamplingParams(num_samples=5, temperature=1.0), ["num_samples is 5", "4"]),
    ],
)
def test_request_is_refused_before_anything_runs(engine: Engine, prompts: Any, params: Any, words: list[str]) -> None:
    for call in (engine.generate, engine.stream):
        with refused(words):
            call(prompts, params)
    assert issubclass(InvalidRequest, ValueError)
    assert issubclass(InvalidRequest, LabkitError)


def test_a_full_context_still_yields_one_token(engine: Engine) -> None:
    (output,) = engine.generate([[5] * 33])
    assert len(output.token_ids) == 1
    assert output.finish_reason in ("length", "stop")


def test_default_length_is_cut_to_the_context(engine: Engine) -> None:
    (output,) = engine.generate([[5] * 20], SamplingParams(ignore_eos=True))
    assert len(output.token_ids) == 14
