"""A client that asks for some outputs by name gets exactly these outputs, with the same values as if it asks for all."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from labkit.serving.channels import client_library
from labkit.serving.repository.served_models import served_models
from labkit.serving.server import Server
from tests.serving.live.requests import PROMPT, ensemble, fastertransformer, gptj, infer, post, stream, tensor

MODELS = served_models({})
NEW_TOKENS = 3


def request_of(model: str) -> list[Any]:
    if model == "ensemble":
        return ensemble([PROMPT, "The"], NEW_TOKENS, is_return_log_probs=True)
    if model == "fastertransformer":
        return fastertransformer([[260, 951], [14]], NEW_TOKENS, is_return_log_probs=True)
    query, length = MODELS["preprocessing"].inputs[0], MODELS["preprocessing"].inputs[3]
    if model == "preprocessing":
        return [tensor(query, [[b"Once"], [b"The end"]]), tensor(length, [[4], [5]])]
    return [tensor(MODELS["postprocessing"].inputs[0], [[[260, 951]]])]


def same(found: Any, expected: Any, what: str) -> None:
    """Check that values are equal, or nearly equal for log probabilities, which depend on the other prompts in a step."""
    compare = np.testing.assert_allclose if found.dtype == np.float32 else np.testing.assert_array_equal
    compare(found, expected, **({"rtol": 1e-4} if found.dtype == np.float32 else {}), err_msg=what)


def subsets(names: list[str]) -> list[tuple[str, ...]]:
    return [chosen for size in range(1, len(names) + 1) for chosen in itertools.combinations(names, size)]


@pytest.mark.parametrize("model", ["ensemble", "fastertransformer", "preprocessing", "postprocessing"])
def test_every_subset_of_outputs_over_grpc(served: Server, model: str) -> None:
    whole = infer(served, model, request_of(model))
    assert set(whole) == {spec.name for spec in MODELS[model].outputs}
    for chosen in subsets(list(whole)):
        outputs = [client_library().InferRequestedOutput(name) for name in chosen]
        found = infer(served, model, request_of(model), outputs=outputs)
        assert set(found) == set(chosen)
        for name, array in found.items():
            same(array, whole[name], f"{name} of {chosen}")


COLUMNS: dict[str, list[tuple[str, str, Any]]] = {
    "ensemble": [
        ("INPUT_0", "BYTES", PROMPT),
        ("INPUT_1", "UINT32", NEW_TOKENS),
        ("INPUT_2", "BYTES", ""),
        ("INPUT_3", "BYTES", ""),
    ],
    "fastertransformer": [
        ("input_ids", "UINT32", 260),
        ("input_lengths", "UINT32", 1),
        ("request_output_len", "UINT32", NEW_TOKENS),
    ],
}


@pytest.mark.parametrize("model", COLUMNS)
def test_every_subset_of_outputs_over_http(served: Server, model: str) -> None:
    inputs = [{"name": name, "datatype": kind, "shape": [1, 1], "data": [value]} for name, kind, value in COLUMNS[model]]
    whole: dict[str, Any] = {}
    for chosen in reversed(subsets([spec.name for spec in MODELS[model].outputs])):
        body = {"inputs": inputs, "outputs": [{"name": name} for name in chosen]}
        status, text = post(served, f"/v2/models/{model}/infer", body)
        assert status == 200, (chosen, text)
        found = {output["name"]: output["data"] for output in json.loads(text)["outputs"]}
        whole = whole or found  # the first subset contains all outputs
        assert found == {name: whole[name] for name in chosen}
    assert whole["sequence_length"][0] >= NEW_TOKENS


GPTJ_OUTPUTS = [spec.name for spec in MODELS["gptj"].outputs]


@pytest.mark.parametrize("chosen", [*((name,) for name in GPTJ_OUTPUTS), ("text_output", "finish_reason"), tuple(GPTJ_OUTPUTS)])
def test_outputs_of_gptj(served: Server, chosen: tuple[str, ...]) -> None:
    (whole,) = stream(served, gptj(text_input=PROMPT, max_new_tokens=NEW_TOKENS, logprobs=True))
    outputs = [client_library().InferRequestedOutput(name) for name in {*chosen, "finish_reason"}]
    (found,) = stream(served, gptj(text_input=PROMPT, max_new_tokens=NEW_TOKENS), outputs=outputs)
    expected = {*chosen, "finish_reason"} - ({"logprobs"} if set(chosen) == set(GPTJ_OUTPUTS) else set())
    assert set(found) == expected, "log-probabilities are made where they are asked for by name, or by the input"
    for name in expected - {"queue_seconds"}:
        same(found[name], whole[name], name)


@pytest.mark.parametrize("model", ["ensemble", "fastertransformer"])
def test_an_unknown_output_is_refused_by_name(served: Server, model: str) -> None:
    with pytest.raises(client_library().InferenceServerException, match="nonsense"):
        infer(served, model, request_of(model), outputs=[client_library().InferRequestedOutput("nonsense")])
