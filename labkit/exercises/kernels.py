"""Triton for the labs: `tl`, `triton` and `kernel_device`. A notebook imports these names from `labkit.lab`.

With an NVIDIA GPU, kernels are compiled. Without a GPU, Triton's interpreter runs them, and their memory accesses are checked.
If Triton is not installed, a stand-in lets a learner define kernels, but the launch of a kernel raises an error. Triton is
loaded at the first use of `tl` or `triton`.
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
from labkit.exercises.kernel_misuse import explain_misuse
from labkit.ops.backend import has_triton

MISSING = "the package triton is not installed (it exists only for Linux)"


def __getattr__(name: str) -> Any:
    if name in ("triton", "tl"):
        return _load()[name]
    raise AttributeError(f"module 'labkit.exercises.kernels' has no attribute {name!r}")


def prepare() -> None:
    """Load Triton now instead of at the first use of `tl` or `triton`.

    Raises `NotAvailable` if there is no GPU and Triton has already been imported in the mode that compiles kernels.
    """
    _load()


def interpreted() -> bool:
    """Whether kernels that are defined from now on run in Triton's interpreter. False if they are compiled."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def kernel_device() -> torch.device:
    """The device for the tensors of kernels: the GPU if kernels are compiled, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not interpreted() else "cpu")


@functools.cache
def _load() -> dict[str, Any]:
    if not has_triton():
        return {"triton": _StandIn(), "tl": SimpleNamespace(constexpr=Any)}
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    if interpreted() and "triton.language" in sys.modules and not _was_loaded_for_interpreting():
        raise NotAvailable(
            "triton was imported before labkit could switch on its interpreter; restart the notebook's kernel, and import "
            "triton only from labkit.lab"
        )
    found = {"triton": importlib.import_module("triton"), "tl": importlib.import_module("triton.language")}
    if interpreted():
        guard_interpreter()
        explain_misuse()
    else:
        watch_launches()
    return found


def _was_loaded_for_interpreting() -> bool:
    """Whether Triton's own helpers (`tl.sigmoid`, ...) run in the interpreter. Triton decides this when it is imported."""
    return type(sys.modules["triton.language"].sigmoid).__name__ == "InterpretedFunction"


class _StandIn:
    """Replaces the package `triton` on a machine where `triton` is not installed."""

    @staticmethod
    def jit(kernel: Any) -> Any:
        """Return a kernel that can be defined, but raises `NotAvailable` when it is launched."""

        class Kernel:
            def __getitem__(self, grid: Any) -> Any:
                raise NotAvailable(f"{kernel.__name__} cannot run here: {MISSING}")

        return Kernel()

    @staticmethod
    def cdiv(a: int, b: int) -> int:
        """The quotient a / b, rounded up."""
        return -(-a // b)

    @staticmethod
    def next_power_of_2(n: int) -> int:
        """The smallest power of two that is at least n."""
        return 1 << max(0, n - 1).bit_length()
