"""A few random requests. `python -m tests.serving.fuzz` sends thousands of them."""

from __future__ import annotations

import pytest

from labkit.engine import Engine
from labkit.serving.server import Server
from tests.sampled import one_in
from tests.serving.fuzz import fuzz


@pytest.mark.parametrize("cases", one_in(2, [40, 200]))
def test_random_requests_change_nobody_elses_text(served: Server, offline: Engine, cases: int) -> None:
    seen = fuzz(served, offline, cases, number=1)
    for outcome in ("HTTP 200", "HTTP 400", "gRPC answered", "gRPC INVALID"):
        assert any(name.startswith(outcome) for name in seen), (outcome, seen)
