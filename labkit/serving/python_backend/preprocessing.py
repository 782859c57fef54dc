"""The model `preprocessing`: encodes texts as padded token ids, and converts word lists to FasterTransformer's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.plurals import counted
from labkit.serving.python_backend.config_parameters import parameter
from labkit.serving.python_backend.immediate_answers import ImmediateAnswers
from labkit.serving.python_backend.tensor_values import array_of, text_of
from labkit.serving.python_backend.word_lists import to_word_lists, word_forms, words_of_csv
from labkit.serving.repository.tensors import ENSEMBLE_INPUTS, PREPROCESSING_INPUTS
from labkit.tokenizer import Tokenizer


class TritonPythonModel:
    """Encodes texts with the `tokenizer.json` in the folder of `model.py`. The tokenizer is read once, at the start."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton before the first request."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self._tokenizer = Tokenizer(folder / "tokenizer.json")
        self._pad = int(parameter(args, "end_token_id", "0"))
        self._most_bytes = int(parameter(args, "most_prompt_bytes", str(2**20)))
        # An ensemble passes its parameters to this step first, so the ensemble's input names are suggested too.
        self._answers = ImmediateAnswers(args, (*ENSEMBLE_INPUTS, *PREPROCESSING_INPUTS), self._outputs)

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded."""
        self._answers.close()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response per request. A refused request does not affect the other requests."""
        return self._answers.each(requests)

    def _outputs(self, request: Any) -> list[Any]:
        query, lengths = array_of(request, "QUERY"), array_of(request, "REQUEST_OUTPUT_LEN")
        assert query is not None
        assert lengths is not None
        if query.ndim != 2 or query.shape[1] != 1:
            raise InvalidRequest(f"QUERY has shape {list(query.shape)}; [batch, 1] is accepted: one prompt per row")
        rows = [self._encode(row[0]) for row in query]
        ids = np.full((len(rows), max(1, *map(len, rows))), self._pad, np.uint32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        outputs: list[tuple[str, NDArray[Any]]] = [
            ("INPUT_ID", ids),
            ("REQUEST_INPUT_LEN", np.array([[len(tokens)] for tokens in rows], np.uint32)),
            ("BAD_WORDS_IDS", self._word_lists(request, "BAD_WORDS_DICT", len(rows))),
            ("STOP_WORDS_IDS", self._word_lists(request, "STOP_WORDS_DICT", len(rows))),
            ("REQUEST_OUTPUT_LEN", lengths.astype(np.uint32)),
        ]
        return [pb_utils.Tensor(name, array) for name, array in outputs]

    def _encode(self, text: bytes) -> list[int]:
        if len(text) > self._most_bytes:
            raise InvalidRequest(f"a prompt has {len(text)} bytes; at most {self._most_bytes} bytes fit the model's context")
        return self._tokenizer.encode(text_of(text, "a prompt"))

    def _word_lists(self, request: Any, name: str, batch: int) -> NDArray[np.int32]:
        """Return the word lists of all prompts, `[batch, 2, n]`, with the tokens of all forms of all words (`word_forms`)."""
        lines = array_of(request, name, optional=True)
        if lines is None:
            return np.stack([to_word_lists([])] * batch)
        if lines.ndim != 2 or lines.shape[0] != batch:
            raise InvalidRequest(f"{name} has shape {list(lines.shape)} for {counted(batch, 'prompt')}; [batch, 1] is accepted")
        found = []
        for line in lines:
            words = [word for text in line for word in words_of_csv(text_of(text, name), name)]
            found.append([self._tokenizer.encode(form, whole=False) for form in word_forms(words)])
        width = max(1, *(sum(map(len, words)) for words in found))
        return np.stack([to_word_lists(words, width) for words in found])
