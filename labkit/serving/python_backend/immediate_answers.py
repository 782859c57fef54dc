"""Sends one response per request for models that answer before `execute` returns, and counts refusals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.serving.python_backend.refusal_metrics import RefusalMetrics
from labkit.serving.python_backend.request_parameters import parameters_of
from labkit.serving.python_backend.triton_error import as_triton_error
from labkit.serving.repository.tensors import TensorSpec
from labkit.serving.shared_folder import shared_folder


class ImmediateAnswers:
    """Answers the requests of one model, and counts the requests that are refused."""

    def __init__(self, args: dict[str, str], inputs: Iterable[TensorSpec], outputs: Callable[[Any], list[Any]]) -> None:
        """args: the argument of `initialize`. inputs: names to suggest if a request has an unknown parameter.

        outputs: computes the output tensors of a request; an exception that it raises is sent to the client.
        """
        self._model, self._inputs, self._outputs = args["model_name"], [spec.name for spec in inputs], outputs
        self._folder = shared_folder(os.getppid())
        self._refusals = RefusalMetrics(self._model, args["model_instance_name"])

    def each(self, requests: list[Any]) -> list[Any]:
        """Return one response per request. A refused request does not affect the other requests."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Stop counting. Call this when the model is unloaded."""
        self._refusals.close()

    def _answer(self, request: Any) -> Any:
        probe = False
        try:
            probe = parameters_of(request, self._model, self._inputs, self._folder).probe
            return pb_utils.InferenceResponse(self._outputs(request))
        except Exception as error:
            if not probe:
                self._refusals.count(error)
            return pb_utils.InferenceResponse(error=as_triton_error(error))
