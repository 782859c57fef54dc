"""A few of the random requests that `python -m tests.serving.fuzz` sends by the thousand."""

from __future__ import annotations

from labkit.engine import Engine
from labkit.serving.server import Server
from tests.serving.fuzz import fuzz

CASES = 200


def test_random_requests_change_nobody_elses_text(served: Server, offline: Engine) -> None:
    seen = fuzz(served, offline, CASES, number=1)
    for outcome in ("HTTP 200", "HTTP 400", "gRPC answered", "gRPC INVALID"):
        assert any(name.startswith(outcome) for name in seen), (outcome, seen)
