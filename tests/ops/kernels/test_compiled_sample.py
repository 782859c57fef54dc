"""The sampling kernels compiled for sm_80 and sm_90 without a GPU: no spilled registers, wide loads."""

from __future__ import annotations

import pytest
import torch

from labkit.ops.kernels.penalize import penalize_triton
from labkit.ops.kernels.sample import sample_triton
from tests.ops.kernels.test_compiled import ARCHS, DTYPES, compiled, meta, pytestmark

__all__ = ["pytestmark"]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("vocab", "dtype"), [*((50400, dtype) for dtype in DTYPES), (50257, torch.float16), (300, torch.float32)]
)
def test_sample(vocab: int, dtype: torch.dtype, arch: int) -> None:
    counters, shares = meta(5, dtype=torch.int64), meta(5, dtype=torch.float64)
    logits = meta(5, vocab, dtype=dtype)
    (kernel,) = compiled(lambda: sample_triton(logits, shares, counters, shares, counters, counters, counters), arch)
    threads = 512 if vocab > 1024 else 128
    assert threads * kernel.registers <= 65536
    assert vocab % 16 or 2 * dtype.itemsize in kernel.global_accesses()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_penalize_moves_16_bytes_a_thread(dtype: torch.dtype, arch: int) -> None:
    logits, marks = meta(5, 50400, dtype=dtype), meta(9, 50400, dtype=torch.uint8)
    rows, shares, flags = meta(5, dtype=torch.int64), meta(5, dtype=torch.float64), meta(5, dtype=torch.bool)
    (kernel,) = compiled(lambda: penalize_triton(logits, marks, rows, shares, shares, flags), arch)
    assert 16 in kernel.global_accesses()
    assert set(kernel.global_accesses("st")) == {16}
