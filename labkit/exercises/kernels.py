"""Triton for the labs: `tl`, `triton` and `kernel_device` (a notebook imports them from `labkit.lab`).

With an NVIDIA GPU kernels are compiled; without one they are interpreted, and their memory accesses are checked. Where Triton
is not installed, a stand-in lets a learner write kernels, and raises when one is launched. Triton is loaded at the first use
of `tl` or `triton`.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import SimpleNamespace
from typing import Any

import torch

from labkit.errors import NotAvailable
from labkit.exercises.kernel_guard import guard_interpreter, watch_launches
from labkit.ops.backend import has_triton

MISSING = "the package triton is not installed (it exists for Linux)"


def __getattr__(name: str) -> Any:
    if name in ("triton", "tl"):
        return _load()[name]
    raise AttributeError(f"module 'labkit.exercises.kernels' has no attribute {name!r}")


def prepare() -> None:
    """Load Triton, as the first use of `tl` or `triton` does.

    Raises `NotAvailable` if Triton was already loaded for compiling and there is no GPU.
    """
    _load()


def interpreted() -> bool:
    """Whether kernels that are defined from now on are interpreted rather than compiled."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def kernel_device() -> torch.device:
    """The device of kernels' tensors: the GPU if kernels are compiled, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not interpreted() else "cpu")


@functools.cache
def _load() -> dict[str, Any]:
    if not has_triton():
        return {"triton": _StandIn(), "tl": SimpleNamespace(constexpr=Any)}
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    if interpreted() and "triton.language" in sys.modules and not _was_loaded_for_interpreting():
        raise NotAvailable("triton was imported before this notebook could choose its interpreter; restart the kernel")
    found = {"triton": importlib.import_module("triton"), "tl": importlib.import_module("triton.language")}
    (guard_interpreter if interpreted() else watch_launches)()
    return found


def _was_loaded_for_interpreting() -> bool:
    """Whether Triton's own helpers (`tl.sigmoid`, ...) are interpreted; that is decided when Triton is imported."""
    return type(sys.modules["triton.language"].sigmoid).__name__ == "InterpretedFunction"


class _StandIn:
    """Stands in for the package `triton` where it is not installed."""

    @staticmethod
    def jit(kernel: Any) -> Any:
        """A kernel that can be defined but not launched."""

        class Kernel:
            def __getitem__(self, grid: Any) -> Any:
                raise NotAvailable(f"{kernel.__name__} cannot run here: {MISSING}")

        return Kernel()

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        """Division, rounded up."""
        return -(-a // b)

    @staticmethod
    def next_power_of_2(n: int) -> int:
        """The smallest power of two that is at least n."""
        return 1 << max(0, n - 1).bit_length()
