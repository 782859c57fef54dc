"""Converts the errors of a stream to labkit's errors, and decides whether a failed request may be repeated.

An error can arrive in two ways. A model that refuses a request answers with an error message, which begins with its kind
(`labkit.serving.error_kind`). If there is no connection, or the time limit passes, gRPC raises its own error.
"""

from __future__ import annotations

from typing import Any

from labkit.errors import (
    THE_LIMIT,
    Cancelled,
    DeadlinePassed,
    InvalidRequest,
    LabkitError,
    NotAvailable,
    Overloaded,
)
from labkit.plurals import counted
from labkit.serving.error_kind import kind_and_words

_NOT_CONNECTED = "failed to connect to all addresses"


class RefusedError(Exception):
    """An error that the server sent as a response to a request."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.kind, self.words = kind_and_words(message)


def error_of(failure: Any, address: str, seconds: float, tokens: int) -> LabkitError:
    """labkit's error for a `RefusedError`, or for a gRPC error (with `code()` and `details()`).

    seconds: the time limit of the request. tokens: how many tokens of the answer had arrived.
    """
    came = f"{counted(tokens, 'token')} of the text had arrived" if tokens else "no part of the text had arrived"
    if isinstance(failure, RefusedError):
        kind, words = failure.kind, failure.words
        if kind in (InvalidRequest, Overloaded, Cancelled, DeadlinePassed):
            return kind(words)
        return (LabkitError if kind is LabkitError else NotAvailable)(f"{address}: {words}; {came}")
    status, words = failure.code().name, failure.details() or ""
    if status == "DEADLINE_EXCEEDED":
        return NotAvailable(
            f"{address} did not finish within {seconds:g} s; {came}; give the request more time, or ask for fewer tokens"
        )
    if status == "CANCELLED":
        return Cancelled(words)
    if status == "UNAVAILABLE" and _NOT_CONNECTED in words:
        return NotAvailable(f"no server answers at {address} ({words}); start one, or give another address")
    if status in ("UNAVAILABLE", "NOT_FOUND", "INVALID_ARGUMENT"):
        return NotAvailable(f"{address}: {words}; {came}")
    return LabkitError(f"{address}: {words} ({status}); {came}")


def is_safe_to_repeat(failure: Any) -> bool:
    """Whether it is certain that the server has not begun the request: it was overloaded, or there was no connection."""
    if isinstance(failure, RefusedError):
        return failure.kind is Overloaded and THE_LIMIT in failure.words
    return failure.code().name == "UNAVAILABLE" and _NOT_CONNECTED in (failure.details() or "")
