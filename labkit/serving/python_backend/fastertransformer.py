"""`fastertransformer`: token ids in and out, with the tensors of NVIDIA's backend of that name.

Answers when a request is done, in whatever order: its prompts run with those of `gptj`'s clients, in the same steps.
"""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.errors import LabkitError
from labkit.serving.engine_socket import RemoteEngine
from labkit.serving.fastertransformer_request import outputs_of, prompts_of, sampling_of
from labkit.serving.python_backend.clients_gone import ClientsGone
from labkit.serving.python_backend.parameters import parameter
from labkit.serving.python_backend.tensors_in import array_of, as_triton_error
from labkit.serving.run_folder import run_folder, sockets, wait_for_engine
from labkit.serving.tensors import FASTERTRANSFORMER_INPUTS


class TritonPythonModel:
    """Has no weights: it is ready when `gptj` is."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton before the first request."""
        folder = run_folder(os.getppid())
        try:
            wait_for_engine(folder)
        except LabkitError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        self._end_token = int(parameter(args, "end_token_id", "0"))
        self._engine = RemoteEngine(lambda: sockets(folder))
        self._clients = ClientsGone()
        self._numbers = itertools.count()

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded."""
        self._clients.close()
        self._engine.close()

    def execute(self, requests: list[Any]) -> None:
        """Begin each; the response comes from another thread."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._begin(request, sender)
            except Exception as error:
                _send(sender, pb_utils.InferenceResponse(error=as_triton_error(error)))

    def _begin(self, request: Any, sender: Any) -> None:
        arrays = {spec.name: array_of(request, spec.name) for spec in FASTERTRANSFORMER_INPUTS}
        given = {name: array for name, array in arrays.items() if array is not None}
        prompts, params = prompts_of(given), sampling_of(given)
        ends = given["end_id"].reshape(-1) if "end_id" in given else [self._end_token]
        number, end = next(self._numbers), int(ends[0])
        over = threading.Event()

        def done(found: list[dict[str, Any]] | LabkitError) -> None:
            over.set()
            self._clients.forget(number)
            try:
                if isinstance(found, LabkitError):
                    raise found
                response = pb_utils.InferenceResponse(
                    [pb_utils.Tensor(name, array) for name, array in outputs_of(prompts, found, end).items()]
                )
            except Exception as error:
                response = pb_utils.InferenceResponse(error=as_triton_error(error))
            _send(sender, response)

        seconds = timeout / 1e6 if (timeout := request.timeout()) else None
        cancel = self._engine.submit(prompts, params, done, seconds=seconds)
        self._clients.watch(number, sender, cancel)
        if over.is_set():
            self._clients.forget(number)


def _send(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
