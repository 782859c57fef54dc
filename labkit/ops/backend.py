"""Decides which kernels accept a tensor: Triton kernels accept GPU tensors, and the native library accepts CPU tensors."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

from labkit import native


@functools.cache
def has_triton() -> bool:
    """Whether the package triton is installed. This check does not import the package."""
    return importlib.util.find_spec("triton") is not None


def on_triton(tensor: Tensor) -> bool:
    """Whether Triton kernels accept this tensor: any dtype except float64, on a GPU."""
    return tensor.is_cuda and tensor.dtype != torch.float64 and has_triton()


def on_native(tensor: Tensor) -> bool:
    """Whether the native library accepts this tensor: float32 or bfloat16, on the CPU."""
    return tensor.is_cpu and tensor.dtype in _NATIVE_DTYPES and native.available()


_NATIVE_DTYPES = (torch.float32, torch.bfloat16)
