"""The model `gptj`, which owns the engine. It takes text or token ids, and returns the text as a whole or token by token.

Requests with any parameters can join and leave the running batch between two steps of the engine. The model `fastertransformer`
sends its prompts to the engine over a socket.
"""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from labkit.engine import SamplingParams
from labkit.engine.outputs import TokenEvent
from labkit.errors import InvalidRequest, LabkitError
from labkit.serving.malloc import keep_blocks
from labkit.serving.python_backend.client_watch import ClientWatch, WaitingClient
from labkit.serving.python_backend.config_parameters import parameter
from labkit.serving.python_backend.engine_from_parameters import engine_from_parameters
from labkit.serving.python_backend.engine_metrics import EngineMetrics
from labkit.serving.python_backend.engine_notes import EngineNote
from labkit.serving.python_backend.engine_socket import EngineSocket
from labkit.serving.python_backend.engine_thread import EngineThread, Job
from labkit.serving.python_backend.last_response import not_sent, send_last
from labkit.serving.python_backend.refusal_metrics import RefusalMetrics
from labkit.serving.python_backend.request_parameters import RequestParameters, asks_for_the_kind, parameters_of
from labkit.serving.python_backend.tensor_values import array_of, string_array, text_of
from labkit.serving.python_backend.triton_error import as_triton_error
from labkit.serving.refusals import Refusals
from labkit.serving.repository.tensors import GPTJ_INPUTS, GPTJ_OUTPUTS
from labkit.serving.shared_folder import shared_folder

INPUT_NAMES = tuple(spec.name for spec in GPTJ_INPUTS)

SWITCH_SECONDS = 0.0005
"""How many seconds a Python thread may run while another thread waits for the GIL.

This time is short, so that the engine rarely waits.
"""


class TritonPythonModel:
    """Owns the engine, a thread that runs the engine's steps, and a thread that sends the responses."""

    def initialize(self, args: dict[str, str]) -> None:
        """Called by Triton before the first request. If weights are missing or too large, the model does not become ready."""
        sys.setswitchinterval(SWITCH_SECONDS)
        keep_blocks()
        self._model, self._folder = args["model_name"], shared_folder(os.getppid())
        note = EngineNote(self._folder, args["model_instance_name"])
        note.say_loading()
        try:
            self._engine = engine_from_parameters(lambda name, default: parameter(args, name, default))
            self._engine_thread = EngineThread(
                self._engine,
                max_waiting=int(parameter(args, "max_queue", "256")),
                request_seconds=float(parameter(args, "request_seconds", "600")),
            )
            self._socket = EngineSocket(self._engine_thread, note.socket)
        except Exception as error:
            words = str(error) if isinstance(error, LabkitError) else f"{type(error).__name__}: {error}"
            note.say_failed(words)
            raise pb_utils.TritonModelException(words) from None
        gc.collect()
        gc.freeze()  # everything loaded so far stays: the garbage collector need not check it again
        note.say_ready()
        self._metrics = EngineMetrics(self._engine_thread.counts, args["model_instance_name"])
        self._refusals = RefusalMetrics(self._model, args["model_instance_name"])
        self._outbox = Outbox()
        self._clients = ClientWatch()

    def execute(self, requests: list[Any]) -> None:
        """Begin each request; the responses are sent from another thread."""
        for request in requests:
            sender = request.get_response_sender()
            answer = Answer(sender, self._outbox, self._clients.client_of(sender), self._refusals)
            try:
                answer.names_kind = asks_for_the_kind(request)
                parameters = parameters_of(request, self._model, INPUT_NAMES, self._folder)
                if parameters.probe:
                    answer.client.leave_uncounted()
                self._begin(request, parameters, answer)
            except LabkitError as error:
                answer.fail(error)
            except Exception as error:
                answer.fail(LabkitError(f"{type(error).__name__}: {error}"))

    def _begin(self, request: Any, parameters: RequestParameters, answer: Answer) -> None:
        given = values_of(request)
        prompt = prompt_of(given)
        answer.streams = bool(given.pop("stream", False))
        params = SamplingParams(**given)
        job = self._engine_thread.submit(
            prompt,
            params,
            on_event=answer.take,
            on_failure=answer.fail,
            seconds=parameters.seconds,
            is_counted=answer.client.is_counted,
        )
        answer.client.watch(job.cancel)

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded.

        Ends all threads, because a running thread would keep the process alive.
        """
        self._metrics.close()
        self._refusals.close()
        self._clients.close()
        self._socket.close()
        self._engine_thread.close()
        self._outbox.close()
        self._engine.close()


def values_of(request: Any) -> dict[str, Any]:
    """The inputs that a request gives, by name, as Python values. Raises `InvalidRequest` for invalid inputs."""
    found: dict[str, Any] = {}
    for spec in GPTJ_INPUTS:
        array = array_of(request, spec.name, optional=True)
        if array is None:
            continue
        values = array.reshape(-1).tolist()
        if spec.dtype == "STRING":
            values = [text_of(value, spec.name) for value in values]
        if spec.dims == (1,) and len(values) != 1:
            raise InvalidRequest(f"{spec.name} has {len(values)} values; one is accepted, as a request has one prompt")
        found[spec.name] = values[0] if spec.dims == (1,) else values
    asked = request.requested_output_names()
    if "logprobs" in asked and len(asked) < len(GPTJ_OUTPUTS):  # a client that names no outputs gets all outputs
        found.setdefault("logprobs", True)
    if "logprobs" in found:
        found["logprobs"] = 0 if found["logprobs"] else None
    return found


def prompt_of(given: dict[str, Any]) -> str | list[int]:
    """Remove the prompt from a request's values and return it.

    Raises `InvalidRequest` unless the request has exactly one prompt.
    """
    text, ids = given.pop("text_input", None), given.pop("input_ids", None)
    if (text is None) == (ids is None):
        both = "both" if text is not None else "neither"
        raise InvalidRequest(
            f"the request has {both} of text_input and input_ids; give the prompt either as text_input or as input_ids"
        )
    prompt: str | list[int] = ids if text is None else text
    return prompt


class Answer:
    """Turns the events of one request into responses. However the request ends, its last response is marked as final."""

    def __init__(self, sender: Any, outbox: Outbox, client: WaitingClient, refusals: Refusals) -> None:
        self.streams = self.names_kind = False
        self.client = client
        self._sender, self._outbox, self._refusals = sender, outbox, refusals
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._made = 0
        self._is_over = False  # only the outbox's thread uses this

    def take(self, job: Job, event: TokenEvent) -> None:
        """Take an event from the engine; called in the engine's thread."""
        self._outbox.put(self._respond, (job, event))

    def fail(self, error: LabkitError) -> None:
        """End the request with an error."""
        self._outbox.put(self._refuse, error)

    def _refuse(self, error: LabkitError) -> None:
        """Send an error as the last response, unless the request is over; called in the outbox's thread."""
        if not self._is_over:
            self._count(error)
            self._send_last(pb_utils.InferenceResponse(error=as_triton_error(error, self.names_kind)))

    def _count(self, error: LabkitError) -> None:
        if self.client.is_counted:
            self._refusals.count(error)

    def _respond(self, made: tuple[Job, TokenEvent]) -> None:
        """Make and send a response for an event; called in the outbox's thread.

        If that fails, the request ends with an error, because a stream must not go on without one of its tokens.
        """
        if self._is_over:
            return
        try:
            last = self._send_unless_last(*made)
        except Exception as error:
            made[0].cancel()
            self._refuse(not_sent(error))
            return
        if last is not None and (failure := self._send_last(last)):
            self._count(failure)

    def _send_unless_last(self, job: Job, event: TokenEvent) -> Any:
        """Send the response for an event, if there is one. The last response is not sent, but returned."""
        self._text.append(event.text)
        if event.token_id >= 0:
            self._made += 1
            self._tokens.append(event.token_id)
        if event.logprob is not None:
            self._logprobs.append(event.logprob.logprob)
        last = event.finish_reason is not None
        if not (last or self.streams):
            return None
        outputs = [
            pb_utils.Tensor("text_output", string_array(["".join(self._text)])),
            pb_utils.Tensor("token_ids", np.array(self._tokens, np.int32)),
        ]
        if self._logprobs:
            outputs.append(pb_utils.Tensor("logprobs", np.array(self._logprobs, np.float32)))
        self._text, self._tokens, self._logprobs = [], [], []
        if not last:
            self._sender.send(pb_utils.InferenceResponse(outputs))
            return None
        reason = "" if event.stop_reason is None else str(event.stop_reason)
        outputs += [
            pb_utils.Tensor("finish_reason", string_array([event.finish_reason or ""])),
            pb_utils.Tensor("stop_reason", string_array([reason])),
            pb_utils.Tensor("prompt_tokens", np.array([len(job.token_ids)], np.int32)),
            pb_utils.Tensor("completion_tokens", np.array([self._made], np.int32)),
            pb_utils.Tensor("queue_seconds", np.array([job.queue_seconds], np.float32)),
        ]
        return pb_utils.InferenceResponse(outputs)

    def _send_last(self, response: Any) -> LabkitError | None:
        self._is_over = True
        self.client.end()
        return send_last(self._sender, response, self.names_kind)


class Outbox:
    """A thread that sends the responses, so that the engine does not wait for them."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="labkit outbox", daemon=True)
        self._thread.start()

    def put(self, send: Any, what: Any) -> None:
        """Call `send(what)` in the thread, after the calls that were put in earlier."""
        self._queue.put((send, what))

    def close(self) -> None:
        """Send the waiting responses, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            send, what = item
            try:
                send(what)
            except Exception as error:  # this thread must continue, because other requests need it
                print(f"a response could not be sent: {error}", file=sys.stderr, flush=True)
