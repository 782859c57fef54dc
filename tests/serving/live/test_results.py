"""The served tokens are exactly the tokens that the engine generates without a server."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest

from labkit.engine import Engine, SamplingParams
from labkit.engine.outputs import Completion
from labkit.serving.python_backend.word_lists import to_word_lists
from labkit.serving.repository.tensors import SAMPLING_INPUTS
from labkit.serving.server import Server
from tests.serving.live.requests import PROMPT, ask, ensemble, fastertransformer, gptj, infer, post, stream

PROMPTS = [PROMPT, "The", "In the beginning there was a small house, and in the house lived"]
SAMPLED: dict[str, Any] = {"temperature": 0.75, "top_k": 40, "top_p": 0.875, "seed": 12}

GPTJ_CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": SAMPLED,
    "largest seed": {"temperature": 1.0, "seed": 2**63 - 1},
    "penalties": {"repetition_penalty": 1.5, "presence_penalty": 0.25},
    "top_p decays": SAMPLED | {"top_p_decay": 0.5, "top_p_min": 0.25, "top_p_reset_ids": [14, 12]},
    "stop": {"stop": ["people", "nothing"]},
    "stop_token_ids": {"stop_token_ids": [14, 270]},
    "end_token_id": {"end_token_id": 14, "min_new_tokens": 3},
    "ignore_eos": {"ignore_eos": True},
    "bad_words": {"bad_words": ["people", "the", "a"]},
    "logprobs": {"logprobs": 0},
}


def once(offline: Engine, prompt: Any, **params: Any) -> Completion:
    (output,) = offline.generate([prompt], SamplingParams(**{"max_new_tokens": 24} | params))
    return output.completions[0]


@pytest.mark.parametrize("case", GPTJ_CASES)
@pytest.mark.parametrize("streams", [True, False])
def test_gptj(served: Server, offline: Engine, case: str, streams: bool) -> None:
    params = GPTJ_CASES[case]
    expected = once(offline, PROMPT, **params)
    given = params | {"logprobs": True} if "logprobs" in params else params
    responses = stream(served, gptj(text_input=PROMPT, max_new_tokens=24, stream=streams, **given))
    assert len(responses) == (len(expected.token_ids) if streams else 1)
    assert "".join(response["text_output"][0] for response in responses) == expected.text
    assert np.concatenate([response["token_ids"] for response in responses]).tolist() == expected.token_ids
    last = responses[-1]
    reason = "" if expected.stop_reason is None else str(expected.stop_reason)
    assert (last["finish_reason"][0], last["stop_reason"][0]) == (expected.finish_reason, reason)
    assert last["prompt_tokens"][0] == len(offline.generate(PROMPT)[0].prompt_token_ids)
    assert last["completion_tokens"][0] == len(expected.token_ids)
    if expected.logprobs is None:
        assert "logprobs" not in last
    else:
        made = np.concatenate([response["logprobs"] for response in responses])
        np.testing.assert_allclose(made, [item.logprob for item in expected.logprobs], rtol=1e-5)


def test_gptj_takes_token_ids(served: Server, offline: Engine) -> None:
    ids = [260, 951, 14, 363]
    assert ask(served, input_ids=ids, max_new_tokens=24)["token_ids"].tolist() == once(offline, ids).token_ids


def test_gptj_without_parameters(served: Server, offline: Engine) -> None:
    assert ask(served, text_input=PROMPT)["token_ids"].tolist() == offline.generate(PROMPT)[0].token_ids


FT_GREEDY: dict[str, Any] = {"temperature": 0.0}
FT_SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_k": 40, "seed": 0}
BEAMS: dict[str, Any] = {"num_beams": 4, "num_samples": 4, "length_penalty": 0.0, "temperature": 1.0, "seed": 0}
SAMPLING_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "start_id": ({"start_id": 9}, FT_GREEDY | {"start_token_id": 9}),
    "end_id": ({"end_id": 14}, FT_GREEDY | {"end_token_id": 14}),
    "runtime_top_k": ({"runtime_top_k": 40}, FT_SAMPLED),
    "runtime_top_p": ({"runtime_top_p": 0.875}, {"temperature": 1.0, "top_p": 0.875, "seed": 0}),
    "beam_search_diversity_rate": ({"beam_width": 4, "beam_search_diversity_rate": 0.5}, BEAMS | {"diversity_rate": 0.5}),
    "temperature": ({"runtime_top_k": 40, "temperature": 2.0}, FT_SAMPLED | {"temperature": 2.0}),
    "len_penalty": ({"beam_width": 4, "len_penalty": 1.0, "end_id": 14}, BEAMS | {"length_penalty": 1.0, "end_token_id": 14}),
    "repetition_penalty": ({"repetition_penalty": 1.5}, FT_GREEDY | {"repetition_penalty": 1.5}),
    "random_seed": ({"runtime_top_k": 40, "random_seed": 2**64 - 1}, FT_SAMPLED | {"seed": 2**64 - 1}),
    "is_return_log_probs": ({"is_return_log_probs": True}, FT_GREEDY | {"logprobs": 0}),
    "beam_width": ({"beam_width": 4, "is_return_log_probs": True}, BEAMS | {"logprobs": 0}),
    "prompt_learning_task_name_ids": ({"prompt_learning_task_name_ids": 0}, FT_GREEDY),
    "top_p_decay": ({"runtime_top_p": 0.875, "top_p_decay": 0.5}, {"temperature": 1.0, "top_p": 0.875, "top_p_decay": 0.5}),
    "top_p_min": (
        {"runtime_top_p": 0.875, "top_p_decay": 0.5, "top_p_min": 0.5},
        {"temperature": 1.0, "top_p": 0.875, "top_p_decay": 0.5, "top_p_min": 0.5},
    ),
    "top_p_reset_ids": (
        {"runtime_top_p": 0.875, "top_p_decay": 0.5, "top_p_reset_ids": 14},
        {"temperature": 1.0, "top_p": 0.875, "top_p_decay": 0.5, "top_p_reset_ids": [14]},
    ),
}


def test_every_sampling_input_has_a_case() -> None:
    assert set(SAMPLING_CASES) == {spec.name for spec in SAMPLING_INPUTS}


@pytest.mark.parametrize("name", SAMPLING_CASES)
def test_ensemble(served: Server, offline: Engine, name: str) -> None:
    """The test serves a batch of prompts of different lengths, with one sampling input set, and compares the texts with the
    engine's.
    """
    given, params = SAMPLING_CASES[name]
    made = infer(served, "ensemble", ensemble(PROMPTS, 16, **given))
    expected = offline.generate(PROMPTS, SamplingParams(**{"max_new_tokens": 16, "seed": 0} | params))
    assert offline.tokenizer is not None
    for row, output in enumerate(expected):
        for beam, completion in enumerate(output.completions):
            stops = completion.finish_reason == "stop"
            kept = [*output.prompt_token_ids, *(completion.token_ids[:-1] if stops else completion.token_ids)]
            assert made["OUTPUT_0"][row, beam] == offline.tokenizer.decode(kept)
            assert made["sequence_length"][row, beam] == len(kept)
            logprobs = [item.logprob for item in completion.logprobs or []]
            np.testing.assert_allclose(made["output_log_probs"][row, beam, : len(logprobs)], logprobs, rtol=1e-5)
            assert math.isclose(made["cum_log_probs"][row, beam], sum(logprobs), rel_tol=1e-5)


def test_an_empty_prompt_begins_with_start_id(served: Server, offline: Engine) -> None:
    made = infer(served, "fastertransformer", fastertransformer([[], [260, 951]], 8, start_id=9))
    expected = offline.generate([[9], [260, 951]], SamplingParams(max_new_tokens=8))
    for row, output in enumerate(expected):
        length = made["sequence_length"][row, 0]
        # start_id is not part of the output, but the new tokens are the same as for a prompt that holds only start_id.
        assert made["output_ids"][row, 0, :length].tolist()[-8:] == output.token_ids


def test_a_parameter_a_prompt(served: Server, offline: Engine) -> None:
    made = infer(served, "ensemble", ensemble(PROMPTS, 16, runtime_top_k=[40, 1, 3], random_seed=[5, 6, 7]))
    for row, (prompt, top_k, seed) in enumerate(zip(PROMPTS, (40, 1, 3), (5, 6, 7), strict=True)):
        params = {"temperature": 1.0, "top_k": top_k, "seed": seed} if top_k > 1 else {}
        assert made["OUTPUT_0"][row, 0] == prompt + once(offline, prompt, max_new_tokens=16, **params).text


def test_stop_words_stop_and_bad_words_never_come(served: Server, offline: Engine) -> None:
    free = once(offline, PROMPT).text
    assert " people" in free, "the prompt no longer gives the text that the words were chosen for"
    stopped = infer(served, "ensemble", ensemble([PROMPT], 24, stop='"no, such",people'))
    assert stopped["OUTPUT_0"][0, 0] == PROMPT + free[: free.index(" people")]
    assert "\n" not in free
    line = infer(served, "ensemble", ensemble([PROMPT], 24, stop='"\n"', bad='"\n","\tfoo"'))
    assert line["OUTPUT_0"][0, 0] == PROMPT + free, "a line end is no space"
    bad = infer(served, "ensemble", ensemble([PROMPT], 24, bad='people,", and"'))["OUTPUT_0"][0, 0]
    assert "people" not in bad
    assert ", and" not in bad
    assert len(bad) > len(PROMPT)


def test_word_lists_of_tokens(served: Server, offline: Engine) -> None:
    prompt, tokens = [260, 951, 14], once(offline, [260, 951, 14]).token_ids
    words = to_word_lists([tokens[3:5], [8000]])
    stopped = infer(served, "fastertransformer", fastertransformer([prompt], 24, stop_words_list=words[None]))
    assert stopped["output_ids"][0, 0].tolist() == [*prompt, *tokens[:5]]
    assert stopped["sequence_length"][0, 0] == len(prompt) + 3, "a stop word is there, but does not count"
    banned = infer(served, "fastertransformer", fastertransformer([prompt], 24, bad_words_list=words[None]))
    made = banned["output_ids"][0, 0].tolist()
    assert tuple(tokens[3:5]) not in set(itertools.pairwise(made))


def test_padding_behind_the_end_is_no_text(served: Server, offline: Engine) -> None:
    """One of two prompts ends early. Its row in the batch is padded, but its text has no padding."""
    words = once(offline, PROMPT).text.split()
    made = infer(served, "ensemble", ensemble([PROMPT, "The"], 24, stop=words[1]))
    assert made["OUTPUT_0"][0, 0] == (PROMPT + once(offline, PROMPT, stop=[words[1], " " + words[1]]).text)
    alone = infer(served, "postprocessing", _tokens([[260, 951, 0, 0]], [2]))
    assert alone["OUTPUT"][0, 0] == infer(served, "postprocessing", _tokens([[260, 951]], None))["OUTPUT"][0, 0]


def _tokens(rows: list[list[int]], lengths: list[int] | None) -> list[Any]:
    from labkit.serving.server.probes import as_input

    inputs = [as_input("TOKENS_BATCH", "UINT32", [[row] for row in rows])]
    return inputs if lengths is None else [*inputs, as_input("SEQUENCE_LENGTH", "UINT32", [[each] for each in lengths])]


def test_over_http(served: Server, offline: Engine) -> None:
    body = {"text_input": PROMPT, "max_new_tokens": 8, "temperature": 0.75, "seed": 12}
    expected = once(offline, PROMPT, max_new_tokens=8, temperature=0.75, seed=12)
    status, text = post(served, "/v2/models/gptj/generate", body)
    assert (status, json.loads(text)["text_output"]) == (200, expected.text)
    assert json.loads(text)["token_ids"] == expected.token_ids
    status, text = post(served, "/v2/models/gptj/generate_stream", body | {"stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line]
    assert (status, "".join(event["text_output"] for event in events)) == (200, expected.text)
    assert len(events) == 8
    assert events[-1]["finish_reason"] == "length"


def test_ensemble_over_http(served: Server, offline: Engine) -> None:
    def column(name: str, datatype: str, value: Any) -> dict[str, Any]:
        return {"name": name, "datatype": datatype, "shape": [1, 1], "data": [value]}

    inputs = [
        column("INPUT_0", "BYTES", PROMPT),
        column("INPUT_1", "UINT32", 8),
        column("INPUT_2", "BYTES", ""),
        column("INPUT_3", "BYTES", ""),
    ]
    status, text = post(served, "/v2/models/ensemble/infer", {"inputs": inputs})
    outputs = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
    assert (status, outputs["OUTPUT_0"]) == (200, [PROMPT + once(offline, PROMPT, max_new_tokens=8).text])
