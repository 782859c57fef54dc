"""What is noted of each request, and of a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from labkit.serving.stress.settings import StressSettings


@dataclass
class RequestTimes:
    """A request's moments, in seconds from the beginning of the run, warm-up and all.

    due: when it should have been sent; everything is counted from there, so that a generator that is late makes nobody look
    quicker. sent: when it was. pieces: when each token came. queue_seconds: how long the server let it wait, by the server.
    error: the kind of the error that it ended with, and `words` its message; None if it was answered.
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
        """Seconds from when it was due to its first token; only of one that has tokens."""
        return self.pieces[0] - self.due

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring tokens."""
        return [after - before for before, after in pairwise(self.pieces)]

    @property
    def e2e(self) -> float:
        """Seconds from when it was due to its last token."""
        return self.pieces[-1] - self.due

    def is_good(self, ttft_limit: float, itl_limit: float) -> bool:
        """Whether it was answered with its first token in time and the others, on average, as quickly one after another."""
        if self.error is not None or not self.pieces:
            return False
        mean_gap = (self.pieces[-1] - self.pieces[0]) / max(1, len(self.pieces) - 1)
        return self.ttft <= ttft_limit and mean_gap <= itl_limit


@dataclass
class StressRun:
    """All requests of a run, warm-up's too, and how late the generator itself was.

    loop_lags: seconds by which a sleep of the generator's event loop lasted too long, taken all along: by as much it may
    have seen tokens late.
    """

    settings: StressSettings
    requests: list[RequestTimes] = field(default_factory=list)
    loop_lags: list[float] = field(default_factory=list)

    @property
    def begin(self) -> float:
        """From when on it counts."""
        return self.settings.warmup

    @property
    def end(self) -> float:
        """Until when it counts; requests that were due before are waited for."""
        return self.settings.warmup + self.settings.seconds

    @property
    def counted(self) -> list[RequestTimes]:
        """The requests that were due in the time that counts."""
        return [request for request in self.requests if self.begin <= request.due < self.end]
