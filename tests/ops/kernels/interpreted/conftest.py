"""Tests of kernels in Triton's interpreter, which a process has or has not: `test_interpreted.py` runs them in one that has.

To run a single one: `TRITON_INTERPRET=1 python -m pytest tests/ops/kernels/interpreted/test_layer_norm.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.ops.kernels.guard import guarded_outputs

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _guarded() -> Iterator[None]:
    """Every output is poisoned before its kernel, and has canaries around it."""
    with guarded_outputs():
        yield
