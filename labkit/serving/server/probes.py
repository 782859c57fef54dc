"""Sends small requests to find out whether models answer. Triton reports a model as ready even if its process was killed."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from labkit.errors import THE_LIMIT, Cancelled, InvalidRequest, LabkitError, NotAvailable, Overloaded
from labkit.serving import error_kind
from labkit.serving.channels import client_library, grpc_client
from labkit.serving.probe_mark import PARAMETER
from labkit.serving.repository.tensors import ENGINE
from labkit.serving.server.engine_steps import read_steps

ANSWER_SECONDS = 15.0
"""The seconds a model has to answer one small request. A model that works on other requests meanwhile gets more time."""

PUBLISHED_SECONDS = 1.0
"""How many seconds to wait until the metrics show what an engine is doing now: they are published every half second."""

LOAD_SECONDS = 600.0
"""The time limit in seconds for loading a model and its weights, for example if `initialize` never returns."""

UNLOAD_SECONDS = 15.0

NO_PROCESS = "is not healthy"
"""Part of Triton's error for a model whose process has ended: "Stub process 'NAME' is not healthy."."""

CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 50),  # find a restarted server at once
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),  # do not share the reconnection pauses of other clients in this process
]
"""Options of the connection to the server, which may end and be restarted while the connection exists."""

_EXAMPLES: dict[str, Any] = {"BYTES": b"a", "BOOL": False}
"""The value of every element of a probe's tensor, by Triton's data type. For all other types the value is 1."""

_REQUESTS: dict[str, dict[str, Any]] = {
    "gptj": {"text_input": [b"a"], "max_new_tokens": [1]},
    "preprocessing": {"QUERY": [[b"a"]], "REQUEST_OUTPUT_LEN": [[1]]},
    "fastertransformer": {"input_ids": [[1]], "input_lengths": [[1]], "request_output_len": [[1]]},
    "postprocessing": {"TOKENS_BATCH": [[[1]]]},
    "ensemble": {"INPUT_0": [[b"a"]], "INPUT_1": [[1]], "INPUT_2": [[b""]], "INPUT_3": [[b""]]},
}


class Probes:
    """Sends small requests to the models of one server, and loads models, over gRPC."""

    def __init__(
        self, grpc: str, metrics: str = "", mark: Callable[[], str] = lambda: "", load_seconds: float = LOAD_SECONDS
    ) -> None:
        """grpc: HOST:PORT. metrics: HOST:PORT of the metrics of a server on this machine; empty if it publishes none.

        mark: returns the server's probe mark (see `probe_mark`); requests without this mark are counted.
        load_seconds: the time limit for loading a model.
        """
        self._address, self._metrics, self._mark, self._load_seconds = grpc, metrics, mark, load_seconds
        self._client = grpc_client(grpc, CHANNEL)

    def is_live(self) -> bool:
        """Whether the server answers at all."""
        try:
            return bool(self._client.is_server_live(client_timeout=2.0))
        except client_library().InferenceServerException:
            return False

    def load(self, model: str, seconds: float | None = None) -> None:
        """Load a model. Raises `NotAvailable` with the server's message if loading fails or takes too long.

        seconds: the time limit; the one given to the constructor if left out.
        """
        seconds = self._load_seconds if seconds is None else seconds
        try:
            self._client.load_model(model, client_timeout=seconds)
        except client_library().InferenceServerException as error:
            if "DEADLINE_EXCEEDED" in str(error.status()):
                raise NotAvailable(f"{model} was not loaded within {seconds:.0f} seconds") from None
            raise NotAvailable(f"{model} could not be loaded: {error.message()}") from None

    def is_loaded(self, model: str) -> bool:
        """Whether the server reports a model as ready; False if the server does not answer."""
        try:
            index = self._client.get_model_repository_index(client_timeout=ANSWER_SECONDS)
        except client_library().InferenceServerException:
            return False
        return any(one.name == model and one.state == "READY" for one in index.models)

    def reload(self, model: str) -> None:
        """Unload a model and load it again in a new process. Raises `NotAvailable` if that fails.

        `reload` does not wait until the old process is unloaded. If that process was killed, the server waits forever for the
        requests that the process had accepted.
        """
        try:
            self._client.unload_model(model, client_timeout=UNLOAD_SECONDS)
        except client_library().InferenceServerException as error:
            raise NotAvailable(f"{model} could not be unloaded: {error.message()}") from None
        self.load(model)

    def answers(self, model: str, *, is_starting: bool = False) -> bool:
        """Whether a model answers a request, or works on other requests while this request waits or finds the queue full.

        A refusal is an answer too. If the model is not labkit's, an exception in its code is a refusal as well, because it may
        expect other values.

        A model that uses labkit's engine works if a step of the engine has ended since the request was sent, or if the engine
        computes a step whose deadline has not passed. Any other model works if its queue is full, or if Triton's count of its
        answered requests has risen. This includes a model named `gptj` without labkit's engine. If the metrics of an engine
        cannot be read, only a full queue counts as work.

        is_starting: if true, only a step that has ended counts as work.
        """
        began, success = time.time(), self._successes(model)
        outcome = self._outcome(model)
        if outcome in ("answer", "failure"):
            return outcome == "answer"
        is_full, steps = outcome == "full queue", None
        if is_engine := self._may_use_engine(model):
            if is_full:  # this answer came at once, so the metrics may be older than the requests that fill the queue
                time.sleep(PUBLISHED_SECONDS)
            steps = read_steps(self._metrics, ANSWER_SECONDS)
        if not steps:
            is_unknown = is_engine and steps is None
            return is_full or (not is_unknown and self._successes(model) > success)
        if any(step.hangs(began) for step in steps):
            return False
        return any(step.ended >= began or (step.deadline and not is_starting) for step in steps)

    def hangs(self, model: str) -> bool:
        """Whether a model has an engine whose current step should have ended by now."""
        return model == ENGINE and any(step.hangs(time.time()) for step in read_steps(self._metrics, ANSWER_SECONDS) or ())

    def _may_use_engine(self, model: str) -> bool:
        return model == ENGINE or any(map(self._may_use_engine, self.needs(model)))

    def _outcome(self, model: str) -> Literal["answer", "failure", "silence", "full queue"]:
        """What a request to a model leads to. An answer that a deadline has passed counts as silence, too."""
        try:
            self._ask(model)
        except InvalidRequest:
            return "answer"
        except Cancelled:
            return "silence"
        except LabkitError as refusal:
            return "full queue" if isinstance(refusal, Overloaded) and THE_LIMIT in str(refusal) else "failure"
        except client_library().InferenceServerException as error:
            status, words = str(error.status()), error.message() or ""
            if "DEADLINE_EXCEEDED" in status or "CANCELLED" in status:
                return "silence"
            if "UNAVAILABLE" in status:
                return "full queue" if THE_LIMIT in words else "failure"
            if "INTERNAL" in status:  # the status of an exception in a model's code, and of a model without a process
                return "answer" if model not in _REQUESTS and NO_PROCESS not in words else "failure"
            return "answer" if "INVALID_ARGUMENT" in status and "not ready" not in words else "failure"
        return "answer"

    def _ask(self, model: str) -> None:
        metadata = self._client.get_model_metadata(model, client_timeout=ANSWER_SECONDS)
        config = self._client.get_model_config(model, client_timeout=ANSWER_SECONDS).config
        batched = config.max_batch_size > 0
        optional = {tensor.name for tensor in config.input if tensor.optional}
        given = _REQUESTS.get(model, {})
        if model == ENGINE and not any(tensor.name == "text_input" for tensor in config.input):
            given = {}
        inputs = []
        for tensor in metadata.inputs:
            if tensor.name in given:
                inputs.append(as_input(tensor.name, tensor.datatype, given[tensor.name]))
            elif not given and tensor.name not in optional:
                shape = [1, *tensor.shape[1:]] if batched else list(tensor.shape)
                shape = [max(1, size) for size in shape]
                element = _EXAMPLES.get(tensor.datatype, 1)
                inputs.append(as_input(tensor.name, tensor.datatype, np.full(shape, element, dtype=object)))
        parameters = {PARAMETER: mark} if (mark := self._mark()) else {}
        if config.model_transaction_policy.decoupled:
            self._stream(model, inputs, parameters)
        else:
            self._client.infer(model, inputs, client_timeout=ANSWER_SECONDS, parameters=parameters)

    def _stream(self, model: str, inputs: list[Any], parameters: dict[str, Any]) -> None:
        """Probe a decoupled model; the first response to the probe counts as the model's answer.

        In a stream, an error has no status, but the errors of labkit's models name their kind (`error_kind`). Only if an error
        names no kind, the probe is sent once more in the form in which Triton adds a status: under load, this form can crash
        the server.
        """
        error = self._first_error(model, inputs, parameters | {error_kind.PARAMETER: True})
        if error is None:
            return
        kind, words = error_kind.kind_and_words(error.message() or "")
        if kind is not None:
            raise kind(words)
        if error.status() is None:
            error = self._first_error(model, inputs, parameters, headers={"triton_grpc_error": "true"})
        if error is not None:
            raise error

    def _first_error(
        self, model: str, inputs: list[Any], parameters: dict[str, Any], headers: dict[str, str] | None = None
    ) -> Any:
        """The error that a request to a decoupled model gets as its first response; None if the first response is no error."""
        library = client_library()
        found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with grpc_client(self._address) as client:
            client.start_stream(
                lambda result, error: found.put((result, error)), stream_timeout=ANSWER_SECONDS, headers=headers
            )
            client.async_stream_infer(model, inputs, parameters=parameters)
            try:
                result, error = found.get(timeout=2 * ANSWER_SECONDS)
            except queue.Empty:
                result, error = None, library.InferenceServerException("silence", status="StatusCode.DEADLINE_EXCEEDED")
            # Triton bug: if a cancellation arrives as its request ends, the server can never unload the model.
            client.stop_stream(cancel_requests=result is not None and not is_last(result))
        return error

    def _successes(self, model: str) -> int:
        """The number of requests for which the model's code has returned up to now.

        Most models answer a request before their code returns. Models that use labkit's engine do not.
        """
        try:
            statistics = self._client.get_inference_statistics(model, client_timeout=2.0)
        except client_library().InferenceServerException:
            return 0
        # Failures are left out: for a dead process, the server fails one request per second.
        return sum(int(one.inference_stats.success.count) for one in statistics.model_stats)

    def needs(self, model: str) -> list[str]:
        """The models that this model needs for its answers: the steps of an ensemble, or the model that owns the engine."""
        if model == "fastertransformer":
            return [ENGINE]
        try:
            config = self._client.get_model_config(model, client_timeout=ANSWER_SECONDS).config
        except client_library().InferenceServerException:
            return []
        return list(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))


def is_last(result: Any) -> bool:
    """Whether a response of a decoupled model is the last response to its request."""
    return bool(result.get_response().parameters["triton_final_response"].bool_param)


def as_input(name: str, datatype: str, values: Any) -> Any:
    """An input tensor for tritonclient's gRPC client.

    datatype: the name in Triton's protocol, for instance "INT32". values: nested lists or an array.
    """
    library = client_library()
    from tritonclient.utils import triton_to_np_dtype

    array = np.asarray(values, dtype=triton_to_np_dtype(datatype))
    tensor = library.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor
