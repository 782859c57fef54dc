"""Exercise 4.4 in the server: the stage `postprocessing`, which calls `postprocess`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from labkit.exercises.stubs import stages
from labkit.exercises.stubs.learner import Functions, answer
from labkit.exercises.stubs.own_functions import OWN
from labkit.tokenizer import Tokenizer


class TritonPythonModel:
    """Turns token ids into text, with the learner's function if there is one."""

    def initialize(self, args: dict[str, str]) -> None:
        """Triton calls this before the first request."""
        self._tokenizer = Tokenizer(Path(args["model_repository"]) / args["model_version"] / "tokenizer.json")
        self._functions = Functions(args, OWN)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request."""
        return [answer(lambda request=request: self._outputs(request)) for request in requests]  # type: ignore[misc]

    def _outputs(self, request: Any) -> dict[str, Any]:
        tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
        given = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH")
        lengths = np.full(tokens.shape[:2], tokens.shape[2]) if given is None else given.as_numpy()
        function = self._functions.get("postprocess", request)
        return {"OUTPUT": stages.postprocessing(tokens, lengths, self._tokenizer.decode, function)}
