"""The answer to exercise 4.6: reference, comparison and known mistakes."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.describe import ended
from labkit.exercises.lab04.streaming import STREAM_TEXT


def stream_text(client: Any, model: str, inputs: list[Any]) -> Iterator[str]:
    """The reference solution of exercise 4.6."""
    yield from _stream(client, model, inputs)


def _stream(
    client: Any,
    model: str,
    inputs: list[Any],
    *,
    final: bool = True,
    cancels: bool = True,
    raises: bool = True,
    empty: bool = False,
    looks_at_last: bool = True,
    ends_at_none: bool = False,
    wait: float | None = None,
    stops_at_end: bool = True,
) -> Iterator[str]:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer(model, inputs, enable_empty_final_response=final)
    stops = stops_at_end
    try:
        while True:
            try:
                result, error = answers.get() if wait is None else answers.get_nowait()
            except queue.Empty:
                return
            if error is not None:
                if raises:
                    raise error
                return
            text = result.as_numpy("text_output")
            is_last = result.get_response().parameters["triton_final_response"].bool_param
            if (text is not None or empty) and (looks_at_last or not is_last):
                yield "" if text is None else text[0].decode()
            if text is None if ends_at_none else is_last:
                return
    except GeneratorExit:
        stops = True
        raise
    finally:
        if stops:
            client.stop_stream(cancel_requests=cancels)


def _collected(client: Any, model: str, inputs: list[Any]) -> Any:
    return iter(list(_stream(client, model, inputs)))


def _error_swallowed(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, raises=False)


def _no_final(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, final=False)


def _not_cancelled(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, cancels=False)


def _left_open(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, stops_at_end=False)


def _empty_piece(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, empty=True)


def _last_text_lost(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, looks_at_last=False)


def _ends_at_none(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, ends_at_none=True)


def _does_not_wait(client: Any, model: str, inputs: list[Any]) -> Any:
    return _stream(client, model, inputs, wait=0.0)


def _all_so_far(client: Any, model: str, inputs: list[Any]) -> Any:
    text = ""
    for piece in _stream(client, model, inputs):
        text += piece
        yield text


def _stripped(client: Any, model: str, inputs: list[Any]) -> Any:
    for piece in _stream(client, model, inputs):
        yield piece.strip()


def _bytes(client: Any, model: str, inputs: list[Any]) -> Any:
    for piece in _stream(client, model, inputs):
        yield piece.encode()


def _first_only(client: Any, model: str, inputs: list[Any]) -> Any:
    for piece in _stream(client, model, inputs):
        yield piece
        return


def _one_request(client: Any, model: str, inputs: list[Any]) -> Any:
    yield client.infer(model, inputs).as_numpy("text_output")[0].decode()


_BYTES = ("b'", 'b"', "[b'", '[b"', "array([b")
"""The possible beginnings of the text form (`repr`) of bytes or of an array of bytes."""


def _explain(case: Case, found: Any, right: Any) -> str:
    if found["error"] and not right["error"]:
        return ended(f"The server refuses your request: {found['error']}")
    if right["error"] and not found["error"]:
        return "The server's error does not reach the reader: raise the error that the callback received."
    if raw := next((piece for piece in found["pieces"] if piece.startswith(_BYTES)), ""):
        return f"Your pieces are bytes, such as {raw[:40]}, but a reader needs text: .decode() turns bytes into a str."
    if found["pieces"] != right["pieces"]:
        return f"The reader gets {str(found['pieces'])[:160]}, but the model sent {str(right['pieces'])[:160]}."
    if not found["each piece before the next is made"]:
        return "The reader gets the pieces late: yield each piece as soon as it comes."
    if found["cancelled"] != right["cancelled"]:
        return "The reader has left, but the model keeps generating: cancel its request in a finally: block."
    if not found["stopped"]:
        return (
            "Your function has ended, but its stream is still open: stop it in a finally: block, which also runs "
            "after an error."
        )
    return ""


STREAM_TEXT_ANSWER = Answer(
    exercise=STREAM_TEXT,
    reference=stream_text,
    comparison=Comparison(),
    names={
        "['pieces']": "pieces",
        "['each piece before the next is made']": "each piece is read in time",
        "['error']": "error",
        "['cancelled']": "the request is cancelled",
        "['stopped']": "the stream is stopped",
    },
    explain=_explain,
    mistakes=(
        Mistake("You collect all pieces before you yield the first piece: yield each piece as soon as it comes.", _collected),
        Mistake(
            "You end without an exception when an error comes, so half a text looks like a whole text: raise the error.",
            _error_swallowed,
        ),
        Mistake(
            "Your client waits forever. A last response without text is sent only if you pass enable_empty_final_response, "
            "and you do not pass it.",
            _no_final,
        ),
        Mistake(
            "When the reader leaves, the model keeps generating: you do not cancel its request.",
            _not_cancelled,
        ),
        Mistake(
            "You stop the stream only when the reader leaves. It must also be stopped at its end and after an error: use a "
            "finally: block.",
            _left_open,
        ),
        Mistake("You yield an empty piece for a last response without text: yield nothing in this case.", _empty_piece),
        Mistake(
            "You end before you take the text of the last response: a response may contain text and also be the last one.",
            _last_text_lost,
        ),
        Mistake(
            "You wait for a response without text, but the last response may contain text: look at triton_final_response.",
            _ends_at_none,
        ),
        Mistake(
            "You end when the queue is empty, but more responses may come: wait for them with queue.get().", _does_not_wait
        ),
        Mistake("Each of your pieces is the whole text so far; yield only what is new.", _all_so_far),
        Mistake("You strip the pieces, but their spaces are part of the text.", _stripped),
        Mistake("Your pieces are bytes, but a reader needs text: .decode() turns bytes into a str.", _bytes),
        Mistake("You end after the first piece: continue until the response that is marked as the last.", _first_only),
        Mistake(
            "You call infer, which is for models that send a single response: use start_stream and async_stream_infer.",
            _one_request,
        ),
    ),
)

ANSWERS = (STREAM_TEXT_ANSWER,)
