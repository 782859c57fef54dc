"""Exercises 4.2 and 4.3 in the server: the stage `preprocessing`, which calls `pad_prompts` and `word_lists`."""

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
    """Turns text into token ids, with the learner's functions if there are any."""

    def initialize(self, args: dict[str, str]) -> None:
        """Triton calls this before the first request."""
        self._tokenizer = Tokenizer(Path(args["model_repository"]) / args["model_version"] / "tokenizer.json")
        stand_ins: dict[str, Any] = {"pad_prompts": stages.no_ids, "word_lists": stages.no_words}
        self._functions = Functions(args, stand_ins | OWN)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response for each request."""
        return [answer(lambda request=request: self._outputs(request)) for request in requests]  # type: ignore[misc]

    def _outputs(self, request: Any) -> dict[str, Any]:
        pad, lists = (self._functions.get(name, request) for name in ("pad_prompts", "word_lists"))
        arrays = {
            name: pb_utils.get_input_tensor_by_name(request, name)
            for name in ("QUERY", "BAD_WORDS_DICT", "STOP_WORDS_DICT", "REQUEST_OUTPUT_LEN")
        }
        given = {name: tensor.as_numpy() for name, tensor in arrays.items() if tensor is not None}
        outputs = stages.preprocessing(given, self._tokenizer.encode, pad, lists)
        return outputs | {"REQUEST_OUTPUT_LEN": np.asarray(given["REQUEST_OUTPUT_LEN"]).astype(np.uint32)}
