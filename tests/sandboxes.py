"""The sandbox of this machine, for tests that need one."""

from __future__ import annotations

import pytest

from labkit.errors import NotAvailable
from labkit.grading.sandbox import Sandbox, need_sandbox


def sandbox_or_skip() -> Sandbox:
    """A sandbox. If this machine cannot make one, the test is skipped with the reason."""
    try:
        return need_sandbox()
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")
