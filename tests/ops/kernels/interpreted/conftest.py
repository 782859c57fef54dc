"""Tests of kernels in Triton's interpreter. The tests need a process in which Triton only interprets kernels;
`test_interpreted.py` starts it.

To run a single file: `TRITON_INTERPRET=1 python -m pytest tests/ops/kernels/interpreted/test_layer_norm.py`.
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
    """Fill every output with poison before its kernel runs, and put canaries around it."""
    with guarded_outputs():
        yield
