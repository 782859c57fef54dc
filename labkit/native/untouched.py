"""Memory that nobody has touched yet, which costs nothing until it is written."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def untouched(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.empty`, but on the CPU always without a value.

    After `torch.use_deterministic_algorithms(True)` torch fills what `torch.empty` returns: a cache sized by the free memory
    would take all of it at once.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    api: Any = torch  # its types lack this form of `set_`
    storage = api.UntypedStorage(math.prod(shape) * dtype.itemsize, device=device)
    memory: Tensor = api.empty(0, dtype=dtype, device=device).set_(storage, 0, shape)
    return memory
