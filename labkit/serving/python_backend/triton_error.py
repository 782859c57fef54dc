"""Converts labkit's errors to errors of Triton's Python backend, with the gRPC status that clients see."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

from labkit.errors import Cancelled, DeadlinePassed, InvalidRequest, LabkitError, NotAvailable, Overloaded, RankFailed
from labkit.serving.error_kind import with_kind


def as_triton_error(error: Exception, names_kind: bool = False) -> Any:
    """The `pb_utils.TritonError` that reports an error to a client. Errors other than labkit's get the status INTERNAL.

    names_kind: whether the message begins with the kind of the error (`error_kind`).
    """
    codes: dict[type[Exception], Any] = {
        InvalidRequest: pb_utils.TritonError.INVALID_ARG,
        Overloaded: pb_utils.TritonError.UNAVAILABLE,
        NotAvailable: pb_utils.TritonError.UNAVAILABLE,
        RankFailed: pb_utils.TritonError.UNAVAILABLE,
        Cancelled: pb_utils.TritonError.CANCELLED,
        DeadlinePassed: pb_utils.TritonError.CANCELLED,
    }
    known = isinstance(error, LabkitError)
    words = str(error) if known else f"{type(error).__name__}: {error}"
    words = with_kind(error, words) if names_kind else words
    return pb_utils.TritonError(words, codes.get(type(error), pb_utils.TritonError.INTERNAL))
