"""Names of precisions and devices, turned into torch's own; knows nothing of models."""

from __future__ import annotations

import torch

from labkit.errors import InvalidRequest, NotAvailable

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
"""The precisions an engine computes in; `fp64` is for references."""


def as_device(device: str | torch.device | None = None) -> torch.device:
    """The named device, or the best there is (the first GPU, else the CPU) when none is named.

    Raises `NotAvailable` for a GPU that is not there and `InvalidRequest` for a name that is no device.
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


def as_dtype(precision: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of a precision's name; none named means float16 on a GPU and float32 on the CPU.

    Raises `InvalidRequest` for anything that is not fp32, bf16, fp16 (or fp64) or the matching torch dtype.
    """
    if precision is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if isinstance(precision, str) and precision in DTYPES:
        return DTYPES[precision]
    if isinstance(precision, torch.dtype) and precision in DTYPES.values():
        return precision
    raise InvalidRequest(f"precision is {precision!r}; fp32, bf16 or fp16 is accepted")


def precision_name(dtype: torch.dtype) -> str:
    """The short name of a dtype: `torch.bfloat16` is `bf16`."""
    return next(name for name, known in DTYPES.items() if known == dtype)
