"""A client for the parts of an exported model: single forward passes, and greedy generation with the cache in the client."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.channels import client_library, grpc_client

Array = NDArray[Any]
CHANGED = "present.", "past_key_values."
"""The server returns cache tensors whose names have the first prefix; the next request sends them under the second prefix."""


class GraphClient:
    """Calls a model that `write_graph_repository` described: the ensemble of the parts, or the whole model.

    address: HOST:PORT of the server's gRPC. The client is also a context manager. Raises `NotAvailable` if the server does not
    answer or has no such model.
    """

    def __init__(self, address: str, model: str = "gptj_graph", *, seconds: float = 60.0) -> None:
        self._library, self._seconds = client_library(), seconds
        self.address, self.model = address, model
        self.client = grpc_client(address)
        try:
            metadata = self.client.get_model_metadata(model, client_timeout=seconds)
        except self._library.InferenceServerException as error:
            self.client.close()
            raise NotAvailable(f"{address} does not serve {model}: {error.message()}") from error
        self._past = {one.name: (one.datatype, list(one.shape)) for one in metadata.inputs if one.name.startswith(CHANGED[1])}

    def forward(
        self, token_ids: Array, past: dict[str, Array] | None = None, *, cache: bool = True
    ) -> tuple[Array, dict[str, Array]]:
        """Run new tokens `[batch, tokens]` after the cached tokens. Returns logits `[batch, vocab_size]` and a new cache.

        past: the cache that the previous pass returned; None at the beginning of a text. cache: whether the server returns the
        new cache; if False, an empty dictionary is returned instead. Raises `InvalidRequest` with the server's message if the
        server refuses the tokens or lengths, and `NotAvailable` if the server fails.
        """
        tokens = np.asarray(token_ids, np.int64)
        given = past or self._empty(len(tokens))
        inputs = [self._input("input_ids", "INT64", tokens)]
        inputs += [self._input(name, self._past[name][0], value) for name, value in given.items()]
        wanted = ["logits", *(self._present(name) for name in self._past if cache)]
        outputs = [self._library.InferRequestedOutput(name) for name in wanted]
        try:
            answer = self.client.infer(self.model, inputs, outputs=outputs, client_timeout=self._seconds)
        except self._library.InferenceServerException as error:
            kind = InvalidRequest if "INVALID_ARGUMENT" in str(error.status()) else NotAvailable
            raise kind(f"{self.model}: {error.message()}") from error
        made = {name: answer.as_numpy(self._present(name)) for name in self._past if cache}
        return answer.as_numpy("logits"), made

    def greedy(self, token_ids: Array, new_tokens: int) -> Array:
        """Generate `new_tokens` tokens after prompts `[batch, tokens]` of equal length. Returns `[batch, new_tokens]` int64."""
        tokens, past, made = np.asarray(token_ids, np.int64), None, []
        for _ in range(new_tokens):
            logits, past = self.forward(tokens, past)
            tokens = logits.argmax(-1)[:, None].astype(np.int64)
            made.append(tokens)
        return np.concatenate(made, 1)

    def compute_counts(self, model: str) -> tuple[int, float]:
        """How many requests a model (a part, for example) has answered, and the seconds that it computed for them."""
        stats = self.client.get_inference_statistics(model, client_timeout=self._seconds).model_stats
        found = [one.inference_stats.compute_infer for one in stats]
        return sum(int(one.count) for one in found), sum(int(one.ns) for one in found) / 1e9

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def __enter__(self) -> GraphClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _empty(self, batch: int) -> dict[str, Array]:
        from tritonclient.utils import triton_to_np_dtype

        return {
            name: np.empty((batch, shape[1], 0, shape[3]), triton_to_np_dtype(datatype))
            for name, (datatype, shape) in self._past.items()
        }

    def _input(self, name: str, datatype: str, array: Array) -> Any:
        tensor = self._library.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        return tensor

    @staticmethod
    def _present(name: str) -> str:
        return name.replace(CHANGED[1], CHANGED[0], 1)
