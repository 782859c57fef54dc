"""Serves one part of an exported model: a graph that ONNX Runtime runs inside Triton's Python backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.graphs.session import SessionSettings, open_session
from labkit.serving.python_backend.config_parameters import parameter
from labkit.serving.python_backend.immediate_answers import ImmediateAnswers
from labkit.serving.repository.tensors import TensorSpec


class TritonPythonModel:
    """Runs the graph that the parameter `graph` names. The model keeps no state between requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton before the first request."""
        settings = SessionSettings(parameter(args, "level", "all"), int(parameter(args, "threads", "1")))
        self._session = open_session(Path(parameter(args, "graph")), settings)
        self._vocab_size = int(parameter(args, "vocab_size"))
        self._context_length = int(parameter(args, "context_length"))
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        config = json.loads(args["model_config"])
        specs = [TensorSpec(one["name"], one["data_type"].removeprefix("TYPE_"), (), "") for one in config["input"]]
        self._answers = ImmediateAnswers(args, specs, self._run)

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded."""
        self._answers.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request. A refused request does not affect the other requests."""
        return self._answers.each(requests)

    def _run(self, request: Any) -> list[Any]:
        given = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        self._check(given)
        wanted = [name for name in self._outputs if name in request.requested_output_names()]
        made = self._session.run(wanted, given)
        return [pb_utils.Tensor(name, value) for name, value in zip(wanted, made, strict=True)]

    def _check(self, given: dict[str, NDArray[Any]]) -> None:
        """Raise `InvalidRequest` for tokens and lengths that the graph cannot accept."""
        entered, *past = given.values()
        name = self._inputs[0]
        if entered.shape[1] == 0:
            raise InvalidRequest(f"{name} has shape {list(entered.shape)} and so no token; give at least one")
        lengths = {cached.shape[2] for cached in past}
        if len(lengths) > 1:
            raise InvalidRequest(f"the caches of the layers have {sorted(lengths)} tokens; all must have the same number")
        if lengths.pop() + entered.shape[1] > self._context_length:
            raise InvalidRequest(
                f"{past[0].shape[2]} cached and {entered.shape[1]} new tokens exceed the context of {self._context_length}"
            )
        if entered.dtype == np.int64 and (entered.min() < 0 or entered.max() >= self._vocab_size):
            raise InvalidRequest(
                f"{name} holds ids from {entered.min()} to {entered.max()}; 0 to {self._vocab_size - 1} are accepted"
            )
