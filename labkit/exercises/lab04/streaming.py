"""Exercise 4.6: a streaming client over gRPC.

In the check, a client streams pieces of text from a model. The model notices when the reader reads a piece, and whether the
reader has left.
"""

from __future__ import annotations

import inspect
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from labkit.exercises.case import Case, own_line
from labkit.exercises.describe import ended
from labkit.exercises.error_advice import advice_on, line_of
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import is_own, lab_server, texts
from labkit.exercises.lab04.words import sentence
from labkit.measure.busy_machine import BusyMachine
from labkit.plurals import counted
from labkit.serving.channels import client_library, grpc_client
from labkit.serving.repository.model_config import Instances, ModelConfig
from labkit.serving.repository.tensors import GPTJ_INPUTS, GPTJ_OUTPUTS
from labkit.serving.server.probes import as_input
from labkit.time_limits import limit_passed

MODEL = "teletype"

SILENT_SECONDS = 6.0
"""If a client yields nothing for this many seconds, it counts as waiting for ever."""

PATIENCE = 4.0
"""Within this many seconds, the model must notice that its client has left."""


@dataclass(frozen=True)
class StreamCase(Case):
    """A case: `words` is the text whose words the model sends, and `count` is the largest number of words that it sends.

    The reader leaves after `leaves_after` pieces. If `leaves_after` is 0, the reader never leaves.
    """

    words: str = ""
    count: int = 0
    leaves_after: int = 0


def teletype_config() -> ModelConfig:
    """The configuration of the streaming model in the check. It has the tensors of `gptj` that this lab uses."""
    inputs = tuple(spec for spec in GPTJ_INPUTS if spec.name in ("text_input", "stream", "max_new_tokens"))
    outputs = tuple(spec for spec in GPTJ_OUTPUTS if spec.name == "text_output")
    return ModelConfig(
        name=MODEL,
        meaning="Words one by one.",
        backend="python",
        max_batch_size=0,
        decoupled=True,
        inputs=inputs,
        outputs=outputs,
        instances=Instances(),
    )


def prompt_inputs(prompt: str, max_new_tokens: int, *, stream: bool = True) -> list[Any]:
    """The input tensors of a request to `gptj`, as objects of tritonclient's gRPC interface."""
    given: dict[str, tuple[str, Any]] = {
        "text_input": ("BYTES", texts([[prompt]])[1][0]),
        "max_new_tokens": ("INT32", np.array([max_new_tokens], np.int32)),
        "stream": ("BOOL", np.array([stream])),
    }
    return [as_input(name, *values) for name, values in given.items()]


_KNOWN: dict[tuple[str, str, str], dict[str, Any] | Exception] = {}
"""Cached results of labkit's own clients, by name and case: some clients wait for seconds, and their results never change."""


def run_stream(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Return the pieces that a reader of the stream gets, and what the model in the check has noticed about its client.

    When the model notices something, it writes a file into a temporary folder.
    """
    assert isinstance(case, StreamCase)
    if not is_own(function):
        return _read(function, case)
    key = function.__name__, case.label, case.words
    if key not in _KNOWN:
        with BusyMachine() as machine:
            found = _found(function, case)
        if machine.words:  # Other programs may have made this client late, so the next call tries again.
            return _value_of(found)
        _KNOWN[key] = found
    return _value_of(_KNOWN[key])


def _found(function: Callable[..., Any], case: StreamCase) -> dict[str, Any] | Exception:
    try:
        return _read(function, case)
    except Exception as error:
        return error


def _value_of(found: dict[str, Any] | Exception) -> dict[str, Any]:
    if isinstance(found, Exception):
        raise found
    return dict(found)


def _read(function: Callable[..., Any], case: StreamCase) -> dict[str, Any]:
    server = lab_server()
    server.load_stub(teletype_config(), MODEL)
    client = grpc_client(server.server.grpc)
    seen = _watch_client(client)
    with tempfile.TemporaryDirectory(prefix="labkit-stream-", ignore_cleanup_errors=True) as folder:
        reader = _Reader(function, client, case, Path(folder), seen)
        try:
            reader.run()
            stopped = seen.is_stopped.is_set()
            misuse = reader.misuse or (_crash_in_words(seen.crashes[0], function) if seen.crashes else "")
            if case.leaves_after and not misuse:
                _until(lambda: (Path(folder) / "cancelled").exists() or (Path(folder) / "ended").exists())
            notes = {name: (Path(folder) / name).exists() for name in ("late", "cancelled")}
            if notes["late"] and not misuse:  # Misuse does not depend on timing.
                limit_passed("the reader did not read a piece in time")
        finally:
            client.close()
        return {
            "misuse": misuse,
            "pieces": reader.pieces,
            # A reader who has left reads nothing, so the client is not to blame for this delay.
            "each piece before the next is made": bool(case.leaves_after) or not notes["late"],
            "error": reader.error,
            "cancelled": bool(case.leaves_after) and notes["cancelled"],
            "stopped": stopped,
        }


class NoLastResponse(TimeoutError):
    """A client waits for an empty last response that it has not asked for."""


@dataclass
class _Seen:
    """Observations of a client: the exceptions of its callback, whether it has stopped its stream, the number of its requests,
    whether one of these requests asks for an empty last response, and how often its callback was called.
    """

    crashes: list[BaseException] = field(default_factory=list)
    is_stopped: threading.Event = field(default_factory=threading.Event)
    requests: int = 0
    asks_for_last: bool = False
    responses: int = 0

    def still_waits(self, pieces: int) -> TimeoutError:
        """Return the error for a client that waits for ever after it has yielded `pieces` pieces."""
        so_far = f"after {counted(pieces, 'piece')} it still waits"
        if not self.requests:
            return TimeoutError(f"{so_far}, because it has sent no request")
        if not self.asks_for_last:
            return NoLastResponse(f"{so_far}, and no more will come")
        if not self.responses:
            return TimeoutError(f"{so_far}, because its callback was never called")
        return TimeoutError(
            f"{so_far}, although its callback got all {counted(self.responses, 'response')}: does the callback put each "
            "response into the queue, and does the loop end at the response that is marked as the last?"
        )


def _watch_client(client: Any) -> _Seen:
    """Observe this client from now on.

    tritonclient calls each callback in a separate thread. An exception in a callback would end that thread, print a long
    traceback of the client, and leave the generator waiting for ever. To avoid this, exceptions are collected until the client
    stops its stream.
    """
    seen = _Seen()
    start_stream, send, stop_stream = client.start_stream, client.async_stream_infer, client.stop_stream

    def start(callback: Callable[..., Any], *args: Any, **more: Any) -> Any:
        def kept(**given: Any) -> None:
            try:
                seen.responses += 1
                callback(**given)
            except BaseException as error:
                # When the stream is stopped, the callback is called once more, with an error that nobody reads.
                if not seen.is_stopped.is_set():
                    seen.crashes.append(error)

        seen.is_stopped.clear()
        return start_stream(kept, *args, **more)

    def ask(*args: Any, **more: Any) -> Any:
        sent = send(*args, **more)
        seen.requests += 1
        given = inspect.signature(send).bind(*args, **more).arguments
        seen.asks_for_last |= bool(given.get("enable_empty_final_response"))
        return sent

    def stop(*args: Any, **more: Any) -> Any:
        seen.is_stopped.set()
        return stop_stream(*args, **more)

    client.start_stream, client.async_stream_infer, client.stop_stream = start, ask, stop
    return seen


def _crash_in_words(error: BaseException, function: Callable[..., Any]) -> str:
    """A message about the exception of a callback, with the learner's line that raised it."""
    own = own_line(error, function)
    place = f" in your line `{own}`" if own else ""
    advice = advice_on(error)
    words = f"Your callback crashed{place}: {type(error).__name__}: {line_of(error)[:300]}{advice and f'; {advice}'}"
    if not own and isinstance(error, TypeError):  # The callback could not even be called.
        words += ". The client calls callback(result=..., error=...): your callback must take these two by their names"
    return ended(words)


class _Reader:
    """Reads the pieces of a learner's client in a separate thread, and tells the model after each piece that it has read it.

    `seen` contains the observations of the client so far. If the function returned something that cannot be read piece by
    piece, `misuse` says so; otherwise it is "".
    """

    def __init__(self, function: Callable[..., Any], client: Any, case: StreamCase, folder: Path, seen: _Seen) -> None:
        self.pieces: list[Any] = []
        self.error = ""
        self.misuse = ""
        self._seen = seen
        self._function, self._client, self._case, self._folder = function, client, case, folder
        self._raised: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    def run(self) -> None:
        """Read until the stream ends or its callback crashes.

        Raises `TimeoutError` if nothing comes for too long, and any error that the learner's code raises.
        """
        self._thread.start()
        count, until = 0, time.monotonic() + SILENT_SECONDS
        while self._thread.is_alive() and not self._seen.crashes:
            self._thread.join(0.01)
            if len(self.pieces) != count:
                count, until = len(self.pieces), time.monotonic() + SILENT_SECONDS
            if time.monotonic() > until:
                limit_passed(f"the next piece did not come within {SILENT_SECONDS:g} seconds")
                raise self._seen.still_waits(count)
        if self._raised is not None and not self._seen.crashes:
            raise self._raised

    def _read(self) -> None:
        case = self._case
        try:
            stream = self._function(self._client, MODEL, prompt_inputs(f"{self._folder} {case.words}", case.count))
            if stream is None:
                raise TypeError("the function returned None; a generator needs a `yield`")
            if isinstance(stream, list | tuple):
                self.misuse = "You return a list, so the reader gets nothing before the end: use yield for each piece."
                return
            for piece in stream:
                self.pieces.append(piece if isinstance(piece, str) else repr(piece))
                if len(self.pieces) == case.leaves_after:
                    if hasattr(stream, "close"):
                        stream.close()
                    return
                (self._folder / str(len(self.pieces))).touch()
        except client_library().InferenceServerException as error:
            self.error = error.message()
        except BaseException as error:
            self._raised = error


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > end:
            limit_passed(f"the model did not notice within {PATIENCE:g} seconds that its reader had left")
            return
        time.sleep(0.01)


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    words = [sentence(draw, draw.randint(4, 7)) for _ in range(5)]
    return [
        StreamCase("a stream to its end", words=words[0], count=3),
        StreamCase("a text that ends before max_new_tokens", words=words[1], count=30),
        StreamCase("an error within the stream", words=words[2] + " ! never", count=30),
        StreamCase("a reader who leaves after 2 pieces", words=words[3], count=30, leaves_after=2),
        StreamCase("a last response that holds text", words=words[4] + " +", count=30),
    ]


STREAM_TEXT = Exercise(
    name="lab04.stream_text",
    lab="04",
    number="4.6",
    title="A client that streams",
    function="stream_text",
    statement=(
        "Complete the skeleton so that it yields each piece of text (a `str`) as soon as it comes. "
        '`result.as_numpy("text_output")` is an array with one `bytes`. In the last response, this may be None, and '
        '`result.get_response().parameters["triton_final_response"].bool_param` is true. If an error comes, raise it. '
        "However the reader leaves, the stream must be stopped. The model in the check notices when you read a piece, and "
        "whether you cancel."
    ),
    points=12,
    minutes=30,
    difficulty=4,
    requires=("triton_server",),
    cases=_cases,
    run=run_stream,
    seconds=30.0,
    ends_at_error=True,
    decides=lambda found: str(found["misuse"]),
    hints=(
        "Ask three questions about each response: is it an error, does it contain text, is it the last response?",
        "In an endless loop, call answers.get() and ask the questions in that order: a response with text may also be the "
        "last response. Python has a kind of block that always runs, however a generator ends.",
        "In the block that always runs, call client.stop_stream(cancel_requests=True).",
    ),
)
