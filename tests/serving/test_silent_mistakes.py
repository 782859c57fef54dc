"""Mistakes in configurations that the real server loads without an error: the first request fails, or none ever fails.

Each configuration is for a model that returns its input A as B. labkit's check names the fault before the model is loaded.
"""

from __future__ import annotations

import json
from dataclasses import replace
from math import prod
from typing import Any

import pytest

pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient")

from labkit.serving.repository.checker.check_config import check_config
from labkit.serving.repository.checker.check_repository import check_repository
from labkit.serving.repository.model_config import Instances, ModelConfig, Step, config_text
from labkit.serving.repository.tensors import TensorSpec
from tests.patience import wait_for
from tests.serving.conftest import Server

A = TensorSpec("A", "FP32", (2,), "two numbers")
B = TensorSpec("B", "FP32", (2,), "the same")
ECHO = ModelConfig(
    name="echo",
    meaning="Gives back what it is given.",
    backend="python",
    max_batch_size=4,
    inputs=(A,),
    outputs=(B,),
    instances=Instances(),
)
X, Z = replace(A, name="X"), replace(B, name="Z")
ENSEMBLE = ModelConfig(
    name="around",
    meaning="echo within an ensemble.",
    platform="ensemble",
    max_batch_size=4,
    inputs=(X,),
    outputs=(Z,),
    steps=(Step("echo", {"A": "X"}, {"B": "Z"}),),
)

CODE = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "A").as_numpy()) for request in requests]

    def answer(self, given):
        shape = ",".join(map(str, given.shape))
        print(f"echo got [{shape}]", flush=True)
        return pb_utils.InferenceResponse([pb_utils.Tensor("B", given)])
"""
TWO_ANSWERS = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for _ in range(2):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("B", np.zeros((1, 2), np.float32))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def request(**tensors: list[int]) -> dict[str, Any]:
    """The body of a request with tensors of these shapes."""
    return {"inputs": [{"name": n, "shape": s, "datatype": "FP32", "data": [1.0] * prod(s)} for n, s in tensors.items()]}


def answer(server: Server, config: ModelConfig, body: dict[str, Any], code: str = CODE) -> str:
    """Load a model; the load must give no error. Return the answer that a client gets from the model."""
    server.put(config.name, config_text(config), code)
    assert server.load(config.name) == ""
    try:
        answered: list[str] = []
        error = server.try_to(f"v2/models/{config.name}/infer", body, answered)
        return error or answered[0]
    finally:
        server.unload(config.name)


def outputs(text: str) -> list[dict[str, Any]]:
    return list(json.loads(text)["outputs"])


def told(config: ModelConfig, expected: ModelConfig = ECHO, echo: ModelConfig = ECHO) -> str:
    """The faults that labkit's check finds in a configuration."""
    return "\n".join(map(str, check_config(config_text(config), expected=expected, others={"echo": config_text(echo)})))


def test_right_configurations_serve(tritonserver: Server) -> None:
    assert outputs(answer(tritonserver, ECHO, request(A=[1, 2])))[0]["shape"] == [1, 2]
    assert outputs(answer(tritonserver, ENSEMBLE, request(X=[3, 2])))[0]["shape"] == [3, 2]
    assert told(ECHO) == told(ENSEMBLE, ENSEMBLE) == ""


def test_without_a_batch_every_client_has_the_wrong_shape(tritonserver: Server) -> None:
    config = replace(ECHO, max_batch_size=0)
    assert "Expected [2], got [1,2]" in answer(tritonserver, config, request(A=[1, 2]))
    assert "takes batches" in told(config)


def test_the_batch_in_dims_refuses_every_client(tritonserver: Server) -> None:
    config = replace(ECHO, inputs=(replace(A, dims=(-1, 2)),))
    assert "Expected [-1,-1,2], got [1,2]" in answer(tritonserver, config, request(A=[1, 2]))
    assert "the batch in its dims" in told(config)


def test_an_output_of_another_type_or_shape_goes_out_as_the_code_made_it(tritonserver: Server) -> None:
    config = replace(ECHO, outputs=(replace(B, dtype="INT32", dims=(3, 4)),))
    (output,) = outputs(answer(tritonserver, config, request(A=[1, 2])))
    assert (output["datatype"], output["shape"]) == ("FP32", [1, 2])
    assert "TYPE_INT32" in told(config)
    assert "dims [ 3, 4 ]" in told(config)


def test_a_misspelt_output_is_not_in_the_answer(tritonserver: Server) -> None:
    config = replace(ECHO, outputs=(replace(B, name="BB"),))
    assert outputs(answer(tritonserver, config, request(A=[1, 2]))) == []
    assert "no output BB; write B" in told(config)


def test_an_input_given_twice_refuses_every_client(tritonserver: Server) -> None:
    config = replace(ECHO, inputs=(A, A))
    assert "expected 2 inputs but got 1" in answer(tritonserver, config, request(A=[1, 2]))
    assert "input A is given already" in told(config)


def test_an_input_that_is_not_optional_refuses_clients_without_it(tritonserver: Server) -> None:
    extra = replace(A, name="C", optional=True)
    config = replace(ECHO, inputs=(A, replace(extra, optional=False)))
    assert "missing required input(s) ['C']" in answer(tritonserver, config, request(A=[1, 2]))
    assert "C is not optional" in told(config, replace(ECHO, inputs=(A, extra)))


def test_an_optional_input_that_the_code_needs_fails_within_the_code(tritonserver: Server) -> None:
    extra = replace(A, name="C", optional=True)
    config = replace(ECHO, inputs=(replace(A, optional=True), extra))
    assert "'NoneType' object" in answer(tritonserver, config, request(C=[1, 2]))
    assert "needs it" in told(config, replace(ECHO, inputs=(A, extra)))


def test_streaming_without_decoupled_fails_at_the_second_response(tritonserver: Server) -> None:
    streams = replace(ECHO, decoupled=True)
    assert "expected a single response, got 2" in answer(tritonserver, ECHO, request(A=[1, 2]), TWO_ANSWERS)
    assert "decoupled: true" in told(ECHO, streams)


def test_decoupled_without_need_shuts_out_http(tritonserver: Server) -> None:
    config = replace(ECHO, decoupled=True)
    assert "doesn't support models with decoupled" in answer(tritonserver, config, request(A=[1, 2]))
    assert "answers once" in told(config)


def test_an_ensemble_with_a_batch_passes_one_prompt_only_to_a_step_without(tritonserver: Server) -> None:
    alone = replace(ECHO, max_batch_size=0)
    tritonserver.put("echo", config_text(alone), CODE)
    assert outputs(answer(tritonserver, ENSEMBLE, request(X=[1, 2])))[0]["shape"] == [1, 2]
    assert "Expected [2], got [3,2]" in answer(tritonserver, ENSEMBLE, request(X=[3, 2]))
    assert "only a batch of one passes" in told(ENSEMBLE, ENSEMBLE, alone)


def test_an_ensemble_without_a_batch_serves_with_a_step_that_has_one(tritonserver: Server) -> None:
    tritonserver.put("echo", config_text(ECHO), CODE)
    config = replace(ENSEMBLE, max_batch_size=0)
    assert outputs(answer(tritonserver, config, request(X=[2])))[0]["shape"] == [2]
    assert told(config, config) == ""


def test_an_ensembles_optional_input_fails_in_the_step_that_needs_it(tritonserver: Server) -> None:
    tritonserver.put("echo", config_text(ECHO), CODE)
    config = replace(ENSEMBLE, inputs=(replace(X, optional=True),))
    assert "missing required input(s) ['A']" in answer(tritonserver, config, {"inputs": []})
    assert "X is optional as the ensemble's input, but echo's input A is not optional" in told(config, config)


def test_a_step_that_makes_the_ensembles_input_anew_runs_for_ever(own_tritonserver: Server) -> None:
    own_tritonserver.put("echo", config_text(ECHO), CODE)
    config = replace(ENSEMBLE, steps=(Step("echo", {"A": "X"}, {"B": "X"}), *ENSEMBLE.steps))
    own_tritonserver.put("around", config_text(config))
    assert own_tritonserver.load("around") == ""
    with pytest.raises(TimeoutError):
        own_tritonserver.ask("v2/models/around/infer", request(X=[1, 2]), timeout=2)
    wait_for(lambda: own_tritonserver.log.read_text().count("echo got") > 100, "a hundred rounds")
    assert "X is made twice" in told(config, config)


def test_a_model_without_its_code_is_loaded_for_ever(own_tritonserver: Server) -> None:
    own_tritonserver.put("echo", config_text(ECHO))
    (own_tritonserver.repository / "echo" / "1" / "model.py").unlink()
    with pytest.raises(TimeoutError):
        own_tritonserver.ask("v2/repository/models/echo/load", {}, timeout=5)
    (fault,) = check_repository(own_tritonserver.repository)
    assert str(fault).startswith("echo/1/model.py: there is no such file")
