"""The model `fastertransformer`, which takes and returns token ids, with the tensors of NVIDIA's backend of that name.

One step of the engine can compute prompts of this model and of `gptj`. Each request is answered as soon as it is done, so the
answers can come in any order.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from labkit.errors import LabkitError
from labkit.serving.python_backend.client_watch import ClientWatch, WaitingClient
from labkit.serving.python_backend.config_parameters import parameter
from labkit.serving.python_backend.engine_notes import engine_sockets, wait_for_engine
from labkit.serving.python_backend.engine_socket import RemoteEngine
from labkit.serving.python_backend.fastertransformer_request import outputs_of, prompts_of, sampling_of
from labkit.serving.python_backend.last_response import send_last
from labkit.serving.python_backend.refusal_metrics import RefusalMetrics
from labkit.serving.python_backend.request_parameters import RequestParameters, parameters_of
from labkit.serving.python_backend.tensor_values import array_of
from labkit.serving.python_backend.triton_error import as_triton_error
from labkit.serving.refusals import Refusals
from labkit.serving.repository.tensors import FASTERTRANSFORMER_INPUTS, TensorSpec
from labkit.serving.shared_folder import shared_folder

INPUT_NAMES = tuple(spec.name for spec in FASTERTRANSFORMER_INPUTS)


class TritonPythonModel:
    """A model without weights of its own, which is ready when `gptj` is ready."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton before the first request."""
        self._model = args["model_name"]
        self._folder = folder = shared_folder(os.getppid())
        try:
            wait_for_engine(folder)
        except LabkitError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._end_token = int(parameter(args, "end_token_id", "0"))
        self._engine = RemoteEngine(lambda: engine_sockets(folder))
        self._refusals = RefusalMetrics(self._model, args["model_instance_name"])
        self._clients = ClientWatch()

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded."""
        self._refusals.close()
        self._clients.close()
        self._engine.close()

    def execute(self, requests: list[Any]) -> None:
        """Begin each request; the responses are sent from another thread."""
        for request in requests:
            sender = request.get_response_sender()
            answer = Answer(sender, self._clients.client_of(sender), self._refusals)
            try:
                parameters = parameters_of(request, self._model, INPUT_NAMES, self._folder)
                if parameters.probe:
                    answer.client.leave_uncounted()
                self._begin(request, parameters, answer)
            except Exception as error:
                answer.fail(error)

    def _begin(self, request: Any, parameters: RequestParameters, answer: Answer) -> None:
        arrays = {spec.name: _array_of(request, spec) for spec in FASTERTRANSFORMER_INPUTS}
        given = {name: array for name, array in arrays.items() if array is not None}
        prompts, params = prompts_of(given), sampling_of(given)
        ends = given["end_id"].reshape(-1) if "end_id" in given else [self._end_token]

        def done(found: list[dict[str, Any]] | LabkitError) -> None:
            try:
                if isinstance(found, LabkitError):
                    raise found
                response = pb_utils.InferenceResponse(
                    [pb_utils.Tensor(name, array) for name, array in outputs_of(prompts, found, int(ends[0])).items()]
                )
            except Exception as error:
                answer.fail(error)
            else:
                answer.send(response)

        seconds, is_counted = parameters.seconds, answer.client.is_counted
        answer.client.watch(self._engine.submit(prompts, params, done, seconds=seconds, is_counted=is_counted))


def _array_of(request: Any, spec: TensorSpec) -> Any:
    """An input as `array_of` returns it. If `input_ids` has 0 columns, all prompts are empty and begin with `start_id`."""
    tensor = pb_utils.get_input_tensor_by_name(request, spec.name) if spec.name == "input_ids" else None
    if tensor is not None and len(tensor.shape()) > 0 and tensor.shape()[0] and not tensor.shape()[-1]:
        return np.zeros(tensor.shape(), np.uint32)
    return array_of(request, spec.name, optional=spec.optional)


class Answer:
    """Sends the single response to a request."""

    def __init__(self, sender: Any, client: WaitingClient, refusals: Refusals) -> None:
        self.client = client
        self._sender, self._refusals = sender, refusals

    def fail(self, error: Exception) -> None:
        """Send an error as the response."""
        self._count(error)
        self.client.end()
        send_last(self._sender, pb_utils.InferenceResponse(error=as_triton_error(error)))

    def send(self, response: Any) -> None:
        """Send the response. If it cannot be sent, the request ends with an error."""
        self.client.end()
        if failure := send_last(self._sender, response):
            self._count(failure)

    def _count(self, error: Exception) -> None:
        if self.client.is_counted:
            self._refusals.count(error)
