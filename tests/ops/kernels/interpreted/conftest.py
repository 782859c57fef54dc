"""Tests of kernels in Triton's interpreter. A whole process uses the interpreter or not; `test_interpreted.py` starts one.

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
    """Every output is filled with poison before its kernel runs, and has canaries around it."""
    with guarded_outputs():
        yield
