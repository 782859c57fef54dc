"""Counts the requests that end with an error, by reason. The set of reasons is small and fixed."""

from __future__ import annotations

from collections import Counter

from labkit.errors import Cancelled, DeadlinePassed, InvalidRequest, NotAvailable, Overloaded, RankFailed

REASONS = {
    "invalid": "the request is wrong: a name, a value or a shape",
    "overloaded": "as many requests as allowed already run and wait",
    "deadline": "the request's timeout, or the server's limit for any request, has passed",
    "cancelled": "its client disconnected, or the model was unloaded",
    "unavailable": "the engine has ended or is being loaded again",
    "failed": "any other error",
}
"""The values of the label `reason` of `labkit_refused_total`, and the meaning of each value."""

_OF_ERRORS: dict[type[Exception], str] = {
    InvalidRequest: "invalid",
    Overloaded: "overloaded",
    DeadlinePassed: "deadline",
    Cancelled: "cancelled",
    NotAvailable: "unavailable",
    RankFailed: "unavailable",
}


def reason_of(error: Exception) -> str:
    """The reason (a key of `REASONS`) for an error with which a request ended."""
    return next((reason for kind, reason in _OF_ERRORS.items() if isinstance(error, kind)), "failed")


class Refusals:
    """Counts the requests of one model that ended with an error, by reason. Call `count` once for each failed request."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    def count(self, error: Exception) -> None:
        """Count one request that ended with this error."""
        self.counts[reason_of(error)] += 1
