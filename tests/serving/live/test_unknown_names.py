"""A name that a model does not know is refused, and the error suggests a known name. No input is silently ignored."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.serving.channels import client_library
from labkit.serving.probe_mark import PARAMETER
from labkit.serving.server import Server
from tests.serving.live.requests import PROMPT, ensemble, fastertransformer, gptj, infer, post, stream

BODIES: dict[str, dict[str, Any]] = {
    "gptj": {"text_input": PROMPT, "max_new_tokens": 2},
    "ensemble": {"INPUT_0": PROMPT, "INPUT_1": 2, "INPUT_2": "", "INPUT_3": ""},
    "fastertransformer": {"input_ids": [260, 951], "input_lengths": 2, "request_output_len": 2},
    "preprocessing": {"QUERY": PROMPT, "REQUEST_OUTPUT_LEN": 2},
    "postprocessing": {"TOKENS_BATCH": [260, 951]},
}

UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("gptj", {"max_tokens": 5}, "max_tokens is not a parameter of gptj; write max_new_tokens"),
    ("gptj", {"max_new_token": 5}, "write max_new_tokens"),
    ("gptj", {"temprature": 0.5}, "temprature is not a parameter of gptj; write temperature"),
    ("gptj", {"Temperature": 0.5}, "Temperature is not a parameter of gptj; write temperature"),
    ("gptj", {"stop_sequences": "x"}, "write stop"),
    ("gptj", {"num_beams": 2}, "num_beams is not a parameter of gptj; each request makes one text"),
    ("gptj", {"num_samples": 2}, "give beam_width to the model ensemble"),
    ("gptj", {"parameters": {"max_tokens": 5}}, "max_tokens is not a parameter of gptj"),
    ("gptj", {"wholly_other": True}, "the inputs are text_input, input_ids"),
    ("gptj", {"unknown": [1]}, "parameter 'unknown' has invalid type"),
    ("gptj", {"timeout": -1}, "timeout is -1; a whole number of microseconds"),
    ("gptj", {"timeout": "5"}, "timeout is '5'; a whole number of microseconds"),
    ("gptj", {"timeout": 1.5}, "timeout is 1.5; a whole number of microseconds"),
    ("gptj", {"timeout": True}, "timeout is True; a whole number of microseconds"),
    ("gptj", {PARAMETER: "forged"}, "labkit_probe is not a parameter of gptj"),
    ("ensemble", {"max_tokens": 5}, "max_tokens is not a parameter of preprocessing; write INPUT_1"),
    ("ensemble", {"num_beams": 2}, "write beam_width"),
    ("ensemble", {PARAMETER: "forged"}, "labkit_probe is not a parameter"),
    ("fastertransformer", {"top_k": 2}, "top_k is not a parameter of fastertransformer; write runtime_top_k"),
    ("preprocessing", {"BAD_WORD_DICT": "a"}, "write BAD_WORDS_DICT"),
    ("postprocessing", {"SEQUENCE_LENGHT": 1}, "write SEQUENCE_LENGTH"),
]


@pytest.mark.parametrize(("model", "extra", "words"), UNKNOWN)
def test_over_http_in_the_body(served: Server, model: str, extra: dict[str, Any], words: str) -> None:
    status, text = post(served, f"/v2/models/{model}/generate", BODIES[model] | extra)
    assert status == 400
    assert words in text.replace("\\'", "'")


@pytest.mark.parametrize("model", BODIES)
def test_the_bodies_without_them_are_answered(served: Server, model: str) -> None:
    for extra in ({}, {"id": "mine"}, {"timeout": 60_000_000}, {"timeout": 0}, {"parameters": {}}):
        status, text = post(served, f"/v2/models/{model}/generate", BODIES[model] | extra)
        assert status == 200, text
        assert "error" not in text


def test_inputs_may_stand_under_parameters(served: Server) -> None:
    """Inputs under `parameters` are accepted, because clients of other servers write them there."""
    body = {"text_input": PROMPT, "parameters": {"max_new_tokens": 3, "stop": []}}
    status, text = post(served, "/v2/models/gptj/generate", body)
    assert (status, '"completion_tokens":3' in text) == (200, True)


def ask(server: Server, model: str, **options: Any) -> Any:
    if model == "gptj":
        return stream(server, gptj(text_input=PROMPT, max_new_tokens=2), **options)
    request = ensemble([PROMPT], 2) if model == "ensemble" else fastertransformer([[260]], 2)
    return infer(server, model, request, **options)


PARAMETERS = {
    "gptj": ({"max_tokens": 5}, "write max_new_tokens"),
    "fastertransformer": ({"temperature": 1}, "temperature is not a parameter of fastertransformer; it is an input"),
    "ensemble": ({"random_sed": 5}, "write random_seed"),
}


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_of_grpc(served: Server, model: str) -> None:
    parameters, words = PARAMETERS[model]
    with pytest.raises(client_library().InferenceServerException, match=words):
        ask(served, model, parameters=parameters)


@pytest.mark.parametrize("model", PARAMETERS)
def test_a_timeout_below_0_over_grpc(served: Server, model: str) -> None:
    with pytest.raises(client_library().InferenceServerException, match="timeout is -5; a whole number of microseconds"):
        ask(served, model, timeout=-5)


def test_parameters_of_infer_over_http(served: Server) -> None:
    inputs = [
        {"name": name, "datatype": "UINT32", "shape": [1, 1], "data": [1]}
        for name in ("input_ids", "input_lengths", "request_output_len")
    ]
    for parameters, words in (({"max_tokens": 5}, "write request_output_len"), ({"end_id": 1}, "it is an input")):
        status, text = post(served, "/v2/models/fastertransformer/infer", {"inputs": inputs, "parameters": parameters})
        assert (status, words in text) == (400, True), text


@pytest.mark.parametrize("model", ["gptj", "ensemble", "fastertransformer"])
def test_a_timeout_in_the_body_counts(served: Server, model: str) -> None:
    status, text = post(served, f"/v2/models/{model}/generate", BODIES[model] | {"timeout": 1})
    assert (status, "its deadline has passed" in text, "its timeout was 1e-06 s" in text) == (400, True, True), text
