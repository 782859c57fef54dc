"""A model for exercise 4.1. It answers with zeros, in the shapes of its configuration."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Reads the shapes of its outputs from its own configuration, and answers with zeros."""

    def initialize(self, args: dict[str, str]) -> None:
        """Triton calls this before the first request."""
        self._outputs = json.loads(args["model_config"])["output"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request."""
        return [pb_utils.InferenceResponse([self._zeros(output) for output in self._outputs]) for _ in requests]

    def _zeros(self, output: dict[str, Any]) -> Any:
        shape = [1, *(max(1, int(dim)) for dim in output["dims"])]
        dtype = pb_utils.triton_string_to_numpy(output["data_type"])
        return pb_utils.Tensor(output["name"], np.full(shape, b"") if dtype is np.object_ else np.zeros(shape, dtype))
