"""Converts names of precisions and devices to torch's dtypes and devices.

A precision is the format in which the matrices are stored. The compute dtype is the dtype of activations and of the cache.
For fp32, bf16 and fp16, the precision and the compute dtype are the same; for the other precisions the compute dtype is the
half precision that suits the device.
"""

from __future__ import annotations

import torch

from labkit.bits_per_weight import BITS
from labkit.errors import InvalidRequest, NotAvailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
"""The precisions in which an engine can compute; `fp64` is for reference results."""


def as_device(device: str | torch.device | None = None) -> torch.device:
    """The device with this name; by default the best device of this machine: the first GPU, or the CPU if there is no GPU.

    Raises `NotAvailable` for a missing GPU and `InvalidRequest` for an unknown device.
    """
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InvalidRequest(f"device is {device!r}; cpu, cuda or cuda:N is accepted") from error
    if chosen.type not in ("cpu", "cuda"):
        raise InvalidRequest(f"device is {device!r}; labkit runs on cpu and cuda")
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = chosen.index or 0
        if index >= count:
            raise NotAvailable(f"device {device} was asked for, but this machine has {count} usable GPUs; use device cpu")
        return torch.device("cuda", index)
    return torch.device("cpu")


def as_precision(precision: str | torch.dtype | None, device: torch.device) -> str:
    """The name of a precision. None means fp16 on a GPU and fp32 on the CPU.

    Raises `InvalidRequest` for an unknown precision.
    """
    if precision is None:
        return "fp16" if device.type == "cuda" else "fp32"
    name = precision_name(precision) if isinstance(precision, torch.dtype) and precision in DTYPES.values() else precision
    if not isinstance(name, str) or name not in BITS:
        raise InvalidRequest(
            f"precision is {precision!r}; fp32, bf16, fp16, sparse24, sparse24_int8, int8, w8a8, int4 or fp8 is accepted"
        )
    return str(name)


def bits_in_memory(precision: str, device: torch.device) -> float:
    """Bits per weight of a matrix on a device.

    A CPU cannot multiply in FP8, so a CPU keeps FP8 weights in bf16. A GPU keeps sparse24_int8 weights as int8, including the
    zeros.
    """
    if precision.startswith("fp8") and device.type == "cpu":
        return 16
    return BITS["int8" if precision == "sparse24_int8" and device.type != "cpu" else precision]


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype in which a model of this precision computes.

    For sparse24, sparse24_int8, int8, w8a8, int4 and fp8 the compute dtype is bfloat16 on the CPU and float16 on a GPU.
    """
    return DTYPES.get(precision, torch.float16 if device.type == "cuda" else torch.bfloat16)


def precision_name(dtype: torch.dtype) -> str:
    """The short name of a dtype: `torch.bfloat16` is `bf16`."""
    return next(name for name, known in DTYPES.items() if known == dtype)
