"""Values as clients write them, over HTTP and gRPC: valid values are answered; for others, an error names the input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from labkit.engine import Engine, SamplingParams
from labkit.serving.channels import client_library
from labkit.serving.server import Server
from labkit.serving.server.probes import as_input
from tests.serving.live.requests import PROMPT, fastertransformer, gptj, infer, post, stream

NEW = {"max_new_tokens": 4}

TAKEN: list[tuple[str, dict[str, Any]]] = [
    ('"stop": []', {}),
    ('"stop": "people"', {"stop": "people"}),
    ('"stop": ["people", "in"]', {"stop": ["people", "in"]}),
    ('"bad_words": []', {}),
    ('"bad_words": [" in"]', {"bad_words": [" in"]}),
    ('"stop_token_ids": []', {}),
    ('"stop_token_ids": 260', {"stop_token_ids": [260]}),
    ('"top_p_reset_ids": []', {}),
    ('"input_ids": []', {}),
    ('"seed": 0, "temperature": 1', {"seed": 0, "temperature": 1.0}),
    ('"seed": 9223372036854775807, "temperature": 1.0', {"seed": 2**63 - 1, "temperature": 1.0}),
    ('"top_k": 0', {}),
    ('"top_k": 100000, "temperature": 1, "seed": 1', {"top_k": 100000, "temperature": 1.0, "seed": 1}),
    ('"top_p": 1', {}),
    ('"temperature": 0', {}),
    ('"temperature": [0.5], "seed": 1', {"temperature": 0.5, "seed": 1}),
    ('"min_new_tokens": 0', {}),
    ('"logprobs": false', {}),
    ('"ignore_eos": true', {"ignore_eos": True}),
    ('"presence_penalty": -1', {"presence_penalty": -1.0}),
]
"""What the body of `/generate` holds in addition to the prompt, and the arguments of `SamplingParams` that must follow from it.
"""


@pytest.mark.parametrize(("written", "params"), TAKEN)
def test_taken_over_http(served: Server, offline: Engine, written: str, params: dict[str, Any]) -> None:
    body = f'{{"text_input": {json.dumps(PROMPT)}, "max_new_tokens": 4, {written}}}'
    status, text = post(served, "/v2/models/gptj/generate", body.encode())
    assert status == 200, text
    assert json.loads(text)["text_output"] == offline.generate(PROMPT, SamplingParams(**NEW | params))[0].text


REFUSED: list[tuple[str, str]] = [
    ('"stop": ""', "stop holds ''"),
    ('"stop": ["a", ""]', "stop holds ''"),
    ('"bad_words": [""]', "bad_words holds ''"),
    ('"seed": -1', "seed is -1"),
    ('"top_k": -1', "top_k is -1"),
    ('"top_p": 0', "top_p is 0.0"),
    ('"top_p": 1.5', "top_p is 1.5"),
    ('"temperature": -0.5', "temperature is -0.5"),
    ('"temperature": NaN', "temperature is nan"),
    ('"temperature": 1e40', "temperature is inf"),
    ('"temperature": []', "can not convert input 'temperature'"),
    ('"temperature": [0.5, 1]', "can not convert input 'temperature'"),
    ('"repetition_penalty": 0', "repetition_penalty is 0.0"),
    ('"presence_penalty": NaN', "presence_penalty is nan"),
    ('"min_new_tokens": 9', "min_new_tokens 9 is above max_new_tokens 4"),
    ('"stop_token_ids": [-1]', "-1"),
    ('"stop_token_ids": [8192]', "stop_token_ids holds the token id 8192"),
    ('"end_token_id": 8192', "end_token_id holds the token id 8192"),
    ('"input_ids": [260]', "both of text_input and input_ids"),
    # If the JSON has a value of the wrong type (number, string or boolean), Triton itself refuses it.
    ('"stop": [5]', "non-string"),
    ('"stop": null', "non-string"),
    ('"seed": 18446744073709551615', "non-signed-integer"),
    ('"top_k": 2.0', "non-signed-integer"),
    ('"top_k": "2"', "non-signed-integer"),
    ('"top_k": true', "non-signed-integer"),
    ('"temperature": "0.5"', "non-number"),
    ('"temperature": true', "non-number"),
    ('"logprobs": 1', "non-boolean"),
    ('"ignore_eos": "false"', "non-boolean"),
    ('"ignore_eos": 0', "non-boolean"),
]


@pytest.mark.parametrize(("written", "words"), REFUSED)
def test_refused_over_http(served: Server, written: str, words: str) -> None:
    body = f'{{"text_input": {json.dumps(PROMPT)}, "max_new_tokens": 4, {written}}}'
    status, text = post(served, "/v2/models/gptj/generate", body.encode())
    assert status in (400, 500), text
    assert words in json.loads(text)["error"]


PROMPTS: list[tuple[bytes, str]] = [
    (b'"text_input": "a\\u0000b"', ""),
    (b'"text_input": ["a"]', ""),
    (b'"text_input": "", "start_token_id": 260', ""),
    (b'"input_ids": 260', ""),
    (b'"text_input": ""', "a prompt is empty"),
    (b'"text_input": "\xff"', "text_input is not UTF-8"),
    (b'"text_input": "\\ud800"', "surrogate"),
    (b'"text_input": ["a", "b"]', "can not convert input 'text_input'"),
    (b'"text_input": []', "can not convert input 'text_input'"),
    (b'"input_ids": []', "neither of text_input and input_ids"),
    (b'"input_ids": [8192]', "8192"),
    (b'"input_ids": [-1]', "non-unsigned-integer"),
    (b'"input_ids": [1.0]', "non-unsigned-integer"),
    (b'"text_input": "a", "text_input": "b"', "already exists"),
]


@pytest.mark.parametrize(("written", "words"), PROMPTS)
def test_prompts_over_http(served: Server, written: bytes, words: str) -> None:
    status, text = post(served, "/v2/models/gptj/generate", b'{"max_new_tokens": 4, ' + written + b"}")
    assert (status == 200) == (not words), text
    assert words in text
    if not words:
        assert len(json.loads(text)["token_ids"]) == 4


@pytest.mark.parametrize("name", ["stop", "bad_words", "stop_token_ids", "top_p_reset_ids", "input_ids"])
def test_empty_lists_over_grpc(served: Server, offline: Engine, name: str) -> None:
    empty = as_input(name, "BYTES" if name in ("stop", "bad_words") else "UINT32" if name == "input_ids" else "INT32", [])
    (found,) = stream(served, [*gptj(text_input=PROMPT, **NEW), empty])
    assert found["text_output"][0] == offline.generate(PROMPT, SamplingParams(max_new_tokens=4))[0].text


def test_empty_word_lists_of_the_ensemble_over_http(served: Server, offline: Engine) -> None:
    def given(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": [1, len(data)], "data": data}

    inputs = [given("INPUT_0", "BYTES", [PROMPT]), given("INPUT_1", "UINT32", [4])]
    inputs += [given("INPUT_2", "BYTES", []), given("INPUT_3", "BYTES", [])]
    status, text = post(served, "/v2/models/ensemble/infer", {"inputs": inputs, "outputs": [{"name": "OUTPUT_0"}]})
    expected = PROMPT + offline.generate(PROMPT, SamplingParams(max_new_tokens=4))[0].text
    assert (status, json.loads(text)["outputs"][0]["data"]) == (200, [expected])


def test_fastertransformer_takes_empty_word_lists_and_prompts(served: Server, offline: Engine) -> None:
    nothing = np.zeros((1, 2, 0), np.int32)
    plain = infer(served, "fastertransformer", fastertransformer([[260]], 4))
    found = infer(served, "fastertransformer", fastertransformer([[260]], 4, bad_words_list=nothing, stop_words_list=nothing))
    np.testing.assert_array_equal(found["output_ids"], plain["output_ids"])
    lengths = fastertransformer([[]], 4, start_id=9)[1:]
    empty = infer(served, "fastertransformer", [as_input("input_ids", "UINT32", np.zeros((1, 0))), *lengths])
    assert empty["output_ids"][0, 0].tolist() == offline.generate([[9]], SamplingParams(max_new_tokens=4))[0].token_ids


SAMPLING: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1.0}, "temperature is -1"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"temperature": float("inf")}, "temperature is inf"),
    ({"runtime_top_p": 2.0}, "runtime_top_p is 2"),
    ({"runtime_top_p": -0.5, "runtime_top_k": 1}, "runtime_top_p is -0.5"),
    ({"runtime_top_p": float("nan"), "beam_width": 2}, "runtime_top_p is nan"),
    ({"len_penalty": float("nan")}, "len_penalty is nan"),
    ({"beam_search_diversity_rate": float("inf")}, "beam_search_diversity_rate is inf"),
    ({"beam_width": 0}, "beam_width is 0"),
    ({"end_id": 8192}, "8192"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0"),
]
"""Values that are refused, even where greedy or beam search would ignore them."""


@pytest.mark.parametrize(("given", "words"), SAMPLING)
def test_sampling_that_means_nothing(served: Server, given: dict[str, Any], words: str) -> None:
    with pytest.raises(client_library().InferenceServerException, match=words) as caught:
        infer(served, "fastertransformer", fastertransformer([[260]], 4, **given))
    assert "INVALID_ARGUMENT" in caught.value.status()
