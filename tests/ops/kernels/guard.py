"""Tensors that reveal a kernel's wrong accesses: poisoned outputs (filled with NaN or the largest integer) with canaries
around them, and misaligned inputs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch

MARGIN = 64
"""The number of canary elements before and after each guarded tensor."""


@contextlib.contextmanager
def guarded_outputs() -> Iterator[None]:
    """In this block, `torch.empty` and `torch.empty_like` return tensors filled with poison.

    At the end, the memory around these tensors must not have changed.
    """
    buffers: list[torch.Tensor] = []

    def empty(*size: Any, dtype: torch.dtype | None = None, device: Any = None, **_: Any) -> torch.Tensor:
        shape = torch.Size(size if all(isinstance(n, int) for n in size) else size[0])
        dtype = dtype or torch.get_default_dtype()
        buffer = torch.full((shape.numel() + 2 * MARGIN,), _poison(dtype), dtype=dtype, device=device)
        buffers.append(buffer)
        return buffer[MARGIN : MARGIN + shape.numel()].view(shape)

    def empty_like(tensor: torch.Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> torch.Tensor:
        return empty(*tensor.shape, dtype=dtype or tensor.dtype, device=tensor.device)

    with mock.patch("torch.empty", empty), mock.patch("torch.empty_like", empty_like):
        yield
    for buffer in buffers:
        around = torch.cat((buffer[:MARGIN], buffer[-MARGIN:]))
        untouched = around.float().isnan() if buffer.is_floating_point() else around == _poison(buffer.dtype)
        assert bool(untouched.all()), f"a kernel wrote outside its output of {buffer.numel() - 2 * MARGIN} elements"


def _poison(dtype: torch.dtype) -> float | int:
    return math.nan if dtype.is_floating_point else torch.iinfo(dtype).max


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of the tensor that starts one element after a 16-byte boundary, with poison before and after it."""
    buffer = torch.full((tensor.numel() + 1 + MARGIN,), _poison(tensor.dtype), dtype=tensor.dtype, device=tensor.device)
    copy = buffer[1 : 1 + tensor.numel()].view(tensor.shape)
    copy.copy_(tensor)
    assert copy.data_ptr() % 16
    return copy
