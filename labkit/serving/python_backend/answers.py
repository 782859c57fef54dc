"""Answers of the models that have their outputs at once: a response per request, a refusal with its reason counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.serving.python_backend.refusal_metrics import RefusalMetrics
from labkit.serving.python_backend.request_parameters import parameters_of
from labkit.serving.python_backend.tensors_in import as_triton_error
from labkit.serving.repository.tensors import TensorSpec
from labkit.serving.run_folder import run_folder


class Answers:
    """Answers the requests of a model that has its outputs at once, and counts those that are refused."""

    def __init__(self, args: dict[str, str], inputs: Iterable[TensorSpec], outputs: Callable[[Any], list[Any]]) -> None:
        """args: of `initialize`. inputs: what a name that is no parameter may mean.

        outputs: the tensors that the model makes of a request; what it raises is the answer.
        """
        self._model, self._inputs, self._outputs = args["model_name"], [spec.name for spec in inputs], outputs
        self._folder = run_folder(os.getppid())
        self._refusals = RefusalMetrics(self._model, args["model_instance_name"])

    def each(self, requests: list[Any]) -> list[Any]:
        """One response per request; a request that is refused does not touch the others."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """To be called when the model is unloaded."""
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
