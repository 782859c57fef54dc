"""Allocates memory without writing to it. Such memory costs nothing until it is written."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def untouched(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Do the same as `torch.empty`, but never fill the tensor on the CPU.

    After `torch.use_deterministic_algorithms(True)`, `torch.empty` writes to its whole result. A cache as large as the free
    memory would then take all of this memory immediately.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    api: Any = torch  # torch's type hints lack this form of `set_`
    storage = api.UntypedStorage(math.prod(shape) * dtype.itemsize, device=device)
    memory: Tensor = api.empty(0, dtype=dtype, device=device).set_(storage, 0, shape)
    return memory
