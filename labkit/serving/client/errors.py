"""Converts gRPC errors to labkit's errors, and decides whether a failed request may be repeated."""

from __future__ import annotations

from typing import Any

from labkit.errors import THE_LIMIT, Cancelled, DeadlinePassed, InvalidRequest, LabkitError, NotAvailable, Overloaded
from labkit.plurals import counted

WITH_STATUS = (("triton_grpc_error", "true"),)
"""Metadata that makes Triton end a failed stream with a gRPC status.

Without this metadata, Triton sends an error message without status.
"""

_PROCESS_GONE = "is not healthy"
_NOT_CONNECTED = "failed to connect to all addresses"


def error_of(failure: Any, address: str, seconds: float, tokens: int) -> LabkitError:
    """labkit's error for a gRPC error (with `code()` and `details()`).

    seconds: the time limit of the request. tokens: how many tokens of the answer had arrived.
    """
    status, words = failure.code().name, failure.details() or ""
    came = f"{counted(tokens, 'token')} of the text had arrived" if tokens else "no part of the text had arrived"
    if status == "DEADLINE_EXCEEDED":
        return NotAvailable(
            f"{address} did not finish within {seconds:g} s; {came}; give the request more time, or ask for fewer tokens"
        )
    if status == "INVALID_ARGUMENT" and "not ready" not in words:
        return InvalidRequest(words)
    if status == "CANCELLED" and "its deadline has passed" in words:
        return DeadlinePassed(words)
    if status == "CANCELLED":
        return Cancelled(words)
    if status == "UNAVAILABLE" and THE_LIMIT in words:
        return Overloaded(words)
    if status == "UNAVAILABLE" and _NOT_CONNECTED in words:
        return NotAvailable(f"no server answers at {address} ({words}); start one, or give another address")
    if status in ("UNAVAILABLE", "NOT_FOUND", "INVALID_ARGUMENT") or _PROCESS_GONE in words:
        return NotAvailable(f"{address}: {words}; {came}")
    return LabkitError(f"{address}: {words} ({status}); {came}")


def is_safe_to_repeat(failure: Any) -> bool:
    """Whether the server has certainly not begun the request: it was overloaded, or there was no connection."""
    words = failure.details() or ""
    return failure.code().name == "UNAVAILABLE" and (THE_LIMIT in words or _NOT_CONNECTED in words)
