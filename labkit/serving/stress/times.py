"""The times that are recorded for each request, and for a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from labkit.serving.stress.settings import StressSettings


@dataclass
class RequestTimes:
    """The times of one request, in seconds from the beginning of the run, warm-up included.

    due: the time when the request should have been sent. Latencies are counted from this time, so that a late load generator
    does not make the server look faster. sent: the time when the request was sent. pieces: the times at which tokens arrived.
    queue_seconds: how long the request waited in the server, as reported by the server. error: the type of the error with which
    the request ended, or None if it was answered. words: the error's message.
    """

    number: int
    due: float
    sent: float
    pieces: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: int = 0
    queue_seconds: float = 0.0
    ended: float = 0.0
    error: str | None = None
    words: str = ""

    @property
    def ttft(self) -> float:
        """Seconds from the due time to the first token. Exists only for requests with tokens."""
        return self.pieces[0] - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds between consecutive tokens."""
        return [after - before for before, after in pairwise(self.pieces)]

    @property
    def e2e(self) -> float:
        """Seconds from the due time to the last token."""
        return self.pieces[-1] - self.due

    def is_good(self, ttft_limit: float, itl_limit: float) -> bool:
        """Whether the request was answered and met both limits.

        The limits are for the time to the first token and for the average time between tokens.
        """
        if self.error is not None or not self.pieces:
            return False
        mean_gap = (self.pieces[-1] - self.pieces[0]) / max(1, len(self.pieces) - 1)
        return self.ttft <= ttft_limit and mean_gap <= itl_limit


@dataclass
class StressRun:
    """All requests of a run, including the requests of the warm-up, and how late the load generator itself was.

    loop_lags: the event loop often sleeps for a short time; each value says by how many seconds one sleep was too long. The
    recorded arrival time of a token can be too late by up to this many seconds. disturbed: says how other programs disturbed
    the run, warm-up included; it is "" if they did not. not_watched: says why it is not known whether other programs disturbed
    the run; it is "" if this is known.
    """

    settings: StressSettings
    requests: list[RequestTimes] = field(default_factory=list)
    loop_lags: list[float] = field(default_factory=list)
    disturbed: str = ""
    not_watched: str = ""

    @property
    def begin(self) -> float:
        """When the measurement begins."""
        return self.settings.warmup

    @property
    def end(self) -> float:
        """When the measurement ends. After that, the test waits for the answers that are still missing."""
        return self.settings.warmup + self.settings.seconds

    @property
    def counted(self) -> list[RequestTimes]:
        """The requests that were due during the measurement."""
        return [request for request in self.requests if self.begin <= request.due < self.end]
