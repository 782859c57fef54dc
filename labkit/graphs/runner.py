"""Runs an exported model in ONNX Runtime, part after part. The cache of each part is kept between steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest
from labkit.graphs.exported import ExportedModel
from labkit.graphs.packages import graph_package
from labkit.graphs.session import SessionSettings, open_session
from labkit.graphs.tensors import GraphTensor, PartTensors

Array = NDArray[Any]


class GraphPart:
    """One part of an export, open in an ONNX Runtime session. Its cache stays on the device and is never copied to Python."""

    def __init__(self, session: Any, tensors: PartTensors, provider: str = "cpu") -> None:
        self._ort = graph_package("onnxruntime")
        self.session, self.tensors = session, tensors
        self._device = "cpu" if provider == "cpu" else "cuda"

    def empty_past(self, batch: int) -> list[Any]:
        """Return the empty cache of `batch` sequences, as it is before their first token."""
        sizes = {"batch": batch, "past": 0}
        return [self._value(np.empty(_filled(tensor, sizes), tensor.dtype)) for tensor in self.tensors.past]

    def run(self, entered: Array | Any, past: list[Any]) -> tuple[Any, list[Any]]:
        """Run one pass. Returns the part's main output and the new cache.

        All tensors are given and returned as `OrtValue`s, except that `entered` can also be an array.
        """
        binding = self.session.io_binding()
        first = entered if isinstance(entered, self._ort.OrtValue) else self._value(entered)
        for tensor, value in zip(self.tensors.inputs, (first, *past), strict=True):
            binding.bind_ortvalue_input(tensor.name, value)
        for tensor in self.tensors.outputs:
            binding.bind_output(tensor.name, self._device)
        self.session.run_with_iobinding(binding)
        leaves, *present = binding.get_outputs()
        return leaves, present

    def _value(self, array: Array) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self._device, 0)


class GraphModel:
    """Runs a whole export in ONNX Runtime. It holds the cache of one batch at a time."""

    def __init__(self, exported: ExportedModel, settings: SessionSettings | None = None) -> None:
        chosen = settings or SessionSettings()
        self.config = exported.config
        self.parts = [GraphPart(open_session(part.path, chosen), part.tensors, chosen.provider) for part in exported.parts]
        self._caches: list[list[Any]] = []
        self._length = 0

    def prefill(self, token_ids: Array) -> Array:
        """Start a new batch of prompts `[batch, tokens]`, all of the same length. Returns logits `[batch, vocab_size]`."""
        self._caches, self._length = [part.empty_past(len(token_ids)) for part in self.parts], 0
        return self.step(token_ids)

    def step(self, token_ids: Array) -> Array:
        """Continue the batch with new tokens `[batch, tokens]`. Returns logits `[batch, vocab_size]` after the last token.

        Raises `InvalidRequest` for a wrong shape, for tokens outside the vocabulary, and for more tokens than the context
        holds.
        """
        tokens = self._checked(token_ids)
        passed: Any = tokens
        for index, part in enumerate(self.parts):
            passed, self._caches[index] = part.run(passed, self._caches[index])
        self._length += tokens.shape[1]
        logits: Array = passed.numpy()
        return logits

    def greedy(self, token_ids: Array, new_tokens: int) -> Array:
        """Generate `new_tokens` tokens greedily after prompts of equal length. Returns `[batch, new_tokens]` int64."""
        made = [self.prefill(token_ids).argmax(-1)]
        for _ in range(new_tokens - 1):
            made.append(self.step(made[-1][:, None]).argmax(-1))
        return np.stack(made, 1).astype(np.int64)

    def logits(self, token_ids: Sequence[int]) -> Array:
        """Return the logits after every token of a text, `[tokens, vocab_size]`. Tokens run one at a time, as in generation."""
        rows = np.asarray(token_ids, np.int64)[:, None, None]
        return np.concatenate([self.prefill(rows[0]), *(self.step(row) for row in rows[1:])])

    def _checked(self, token_ids: Array) -> Array:
        tokens = np.asarray(token_ids)
        if tokens.ndim != 2 or tokens.size == 0 or tokens.dtype.kind not in "iu":
            raise InvalidRequest(
                f"token_ids has shape {list(tokens.shape)} and dtype {tokens.dtype}; whole numbers [batch, tokens] are accepted"
            )
        if not self._caches or len(self._caches[0]) == 0:
            raise InvalidRequest("there is no batch yet; call prefill before step")
        batch = self._caches[0][0].shape()[0]
        if batch != len(tokens):
            raise InvalidRequest(f"this step has {len(tokens)} rows, but the batch has {batch}; give a token for each sequence")
        if tokens.min() < 0 or tokens.max() >= self.config.vocab_size:
            raise InvalidRequest(
                f"token ids from {tokens.min()} to {tokens.max()} were given; 0 to {self.config.vocab_size - 1} are accepted"
            )
        if self._length + tokens.shape[1] > self.config.context_length:
            raise InvalidRequest(
                f"{self._length} cached and {tokens.shape[1]} new tokens exceed the context of {self.config.context_length}"
            )
        return tokens.astype(np.int64)


def _filled(tensor: GraphTensor, sizes: dict[str, int]) -> list[int]:
    return [sizes[size] if isinstance(size, str) else size for size in tensor.shape]
