"""The model `postprocessing`: decodes token ids to text, without the padding after `SEQUENCE_LENGTH` tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.serving.python_backend.immediate_answers import ImmediateAnswers
from labkit.serving.python_backend.tensor_values import array_of, string_array
from labkit.serving.repository.tensors import POSTPROCESSING_INPUTS
from labkit.tokenizer import Tokenizer


class TritonPythonModel:
    """Decodes token ids with the `tokenizer.json` in the folder of `model.py`. The tokenizer is read once, at the start."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton before the first request."""
        self._tokenizer = Tokenizer(Path(args["model_repository"]) / args["model_version"] / "tokenizer.json")
        self._answers = ImmediateAnswers(args, POSTPROCESSING_INPUTS, self._outputs)

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded."""
        self._answers.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request. A refused request does not affect the other requests."""
        return self._answers.each(requests)

    def _outputs(self, request: Any) -> list[Any]:
        return [pb_utils.Tensor("OUTPUT", self._texts(request))]

    def _texts(self, request: Any) -> NDArray[Any]:
        """Return the decoded texts, `[batch, beam]`, in UTF-8."""
        tokens, lengths = array_of(request, "TOKENS_BATCH"), array_of(request, "SEQUENCE_LENGTH", optional=True)
        assert tokens is not None
        if tokens.ndim != 3:
            raise InvalidRequest(f"TOKENS_BATCH has shape {list(tokens.shape)}; [batch, beam, tokens] is accepted")
        if lengths is None:
            lengths = np.full(tokens.shape[:2], tokens.shape[2])
        if lengths.shape != tokens.shape[:2] or lengths.max() > tokens.shape[2]:
            raise InvalidRequest(
                f"SEQUENCE_LENGTH has shape {list(lengths.shape)} and values up to {lengths.max()}, but TOKENS_BATCH has shape "
                f"{list(tokens.shape)}; shape [batch, beam] with values up to {tokens.shape[2]} is accepted"
            )
        rows = zip(tokens.reshape(-1, tokens.shape[2]).tolist(), lengths.reshape(-1).tolist(), strict=True)
        return string_array([self._tokenizer.decode(ids[:length]) for ids, length in rows]).reshape(tokens.shape[:2])
