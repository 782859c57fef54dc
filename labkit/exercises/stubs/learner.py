"""Runs a learner's function inside the server process that runs the model.

The function is read from a file beside `model.py`. If it raises an error, the error's class and message are sent back.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.exercises.stubs.learner_folder import FOLDER


class Functions:
    """The functions of one model.

    If a request names a learner's function, that function runs. Otherwise, the function that the model's configuration names
    runs. If the configuration names none, labkit's own function runs.

    `own` maps names to labkit's functions. For a name that is not in `own`, a request or the configuration must name one.
    """

    def __init__(self, args: dict[str, str], own: dict[str, Callable[..., Any]]) -> None:
        self._folder = Path(args["model_repository"]) / args["model_version"] / FOLDER
        parameters = json.loads(args["model_config"]).get("parameters", {})
        self._configured = {name: value["string_value"] for name, value in parameters.items()}
        self._own = own
        self._loaded: dict[str, Callable[..., Any]] = {}

    def get(self, name: str, request: Any) -> Callable[..., Any]:
        """The function that runs for this request. If the function's definition raises an error, this method raises it."""
        given = json.loads(request.parameters() or "{}")
        digest = given.get(name) or self._configured.get(name)
        if not digest:
            return self._own[name]
        if digest not in self._loaded:
            spec = importlib.util.spec_from_file_location(f"learner_{digest}", self._folder / f"{digest}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._loaded[digest] = getattr(module, name)
        return self._loaded[digest]


def answer(outputs: Callable[[], dict[str, Any]]) -> Any:
    """A response with the arrays that `outputs` returns, or with the error that `outputs` raises."""
    try:
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in outputs().items()])
    except BaseException as error:  # The process must survive any exception of a learner's code.
        return refusal(error)


def refusal(error: BaseException) -> Any:
    """A response with the name and the message of an exception."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(json.dumps([type(error).__name__, str(error)])))
