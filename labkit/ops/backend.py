"""Which form of an operation runs where: Triton kernels on a GPU, the native library on the CPU, else plain torch."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from labkit import native


@functools.cache
def has_triton() -> bool:
    """Whether the package triton is installed; it is not imported for that."""
    return importlib.util.find_spec("triton") is not None


def on_triton(tensor: Tensor) -> bool:
    """Whether an operation on this tensor goes to a Triton kernel."""
    return tensor.is_cuda and tensor.dtype != torch.float64 and has_triton()


def on_native(tensor: Tensor) -> bool:
    """Whether an operation on this tensor goes to the native CPU library (float32 and bfloat16 tensors)."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.bfloat16) and native.available()
