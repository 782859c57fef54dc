"""Adds the kind of an error to its message: in a stream, Triton sends the message of an error, but not its status.

Triton can end the stream with a status instead (metadata `triton_grpc_error`), but Triton 2.51 then accesses streams that have
ended: under the load of 30 clients, some of which were refused, the server crashed in three of six runs. So labkit's client
sends a request parameter, which makes the model begin its error message with the kind of the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.errors import Cancelled, DeadlinePassed, InvalidRequest, LabkitError, NotAvailable, Overloaded, RankFailed

PARAMETER = "labkit_error_kind"
"""The name of the request parameter; its value is True."""

KINDS: Mapping[str, type[LabkitError]] = {
    kind.__name__: kind
    for kind in (InvalidRequest, Overloaded, NotAvailable, RankFailed, Cancelled, DeadlinePassed, LabkitError)
}


def with_kind(error: Exception, words: str) -> str:
    """The message of an error, preceded by the name of its kind. Errors that are not labkit's have the kind `LabkitError`."""
    name = type(error).__name__
    return f"{name if name in KINDS else LabkitError.__name__}: {words}"


def kind_and_words(message: str) -> tuple[type[LabkitError] | None, str]:
    """Split a message of `with_kind` into kind and words. The kind is None if Triton itself wrote the message."""
    name, _, words = message.partition(": ")
    return (KINDS[name], words) if name in KINDS else (None, message)


def is_asked(parameters: Mapping[str, Any]) -> bool:
    """Whether a request with these parameters asks for the kind of an error."""
    return parameters.get(PARAMETER) is True
