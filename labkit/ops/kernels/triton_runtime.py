"""What every Triton kernel stands on: Triton where it is installed, a stand-in where it is not, one way to launch.

A process runs kernels either compiled, on a GPU, or interpreted, on CPU tensors: `TRITON_INTERPRET=1` in the environment
before Triton is imported decides it for good.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labkit.errors import NotAvailable
from labkit.ops.backend import has_triton

__all__ = [
    "INSTALLED",
    "Kernel",
    "Launch",
    "arch_of",
    "ceil_div",
    "interpreted",
    "jit",
    "jit_once_for_all",
    "launch",
    "power_of_two",
    "recorded",
    "tl",
    "triton",
]

INSTALLED = has_triton()
"""Whether the package triton is there."""


class _Absent:
    """Stands for `triton.language` where there is none: any attribute of it, called or not, so that kernels can be defined."""

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> _Absent:
        return self


if TYPE_CHECKING or INSTALLED:
    import triton
    import triton.language as tl
else:
    triton, tl = None, _Absent()

Kernel = Any
"""What `jit` makes: `triton.JITFunction`, or `InterpretedFunction` in an interpreted process.

In a kernel's signature `tl.tensor` is what the kernel sees: an address for a tensor, a number for a number, a block of
values in a function that kernels call.
"""


def jit(function: Callable[..., Any]) -> Kernel:
    """`triton.jit`; without Triton, something in its place that only `launch` looks at."""
    return triton.jit(function) if INSTALLED else function


def jit_once_for_all(*names: str) -> Callable[[Callable[..., Any]], Kernel]:
    """`jit`, compiled once whatever the arguments of these names are.

    Otherwise a kernel is compiled again when an integer is 1 or becomes a multiple of 16, or an address of 16 bytes: right
    for the shapes of a model, a pause of seconds in the middle of serving for numbers and slices that follow the batch.
    """

    def decorate(function: Callable[..., Any]) -> Kernel:
        return triton.jit(do_not_specialize=list(names))(function) if INSTALLED else function

    return decorate


def interpreted() -> bool:
    """Whether this process runs kernels in Triton's interpreter (read when Triton was imported, fixed since)."""
    return INSTALLED and hasattr(tl.sum, "rewrite")  # a standard function, of the kind that jit made at import


@dataclass(frozen=True)
class Launch:
    """One call of a kernel: `args` by position, `options` by name (constexprs, num_warps, num_stages)."""

    kernel: Kernel
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass
class _Recording:
    arch: int
    launches: list[Launch]


_RECORDING: ContextVar[_Recording | None] = ContextVar("recording", default=None)  # of this thread: others go on launching


@contextlib.contextmanager
def recorded(arch: int = 90) -> Iterator[list[Launch]]:
    """Inside, nothing is launched: the launches are collected as for a GPU of compute capability `arch` / 10.

    Give launchers tensors on the device "meta" and the largest shapes cost nothing; a launcher that would read a tensor's
    values on the host, which a CUDA graph cannot, fails there.
    """
    recording = _Recording(arch, [])
    before = _RECORDING.set(recording)
    try:
        yield recording.launches
    finally:
        _RECORDING.reset(before)


def launch(kernel: Kernel, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """`kernel[grid](*args, **options)` on the device of the tensors; a grid with no programs is not launched.

    Raises `NotAvailable` when this process cannot run it: no Triton, tensors that are not on a GPU in a compiled
    process, bfloat16 in an interpreted one.
    """
    if 0 in grid:
        return
    recording = _RECORDING.get()
    if recording is not None:
        recording.launches.append(Launch(kernel, grid, args, options))
        return
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    _check(kernel, tensors)
    device = tensors[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*args, **options)


def _check(kernel: Kernel, tensors: list[Tensor]) -> None:
    if not INSTALLED:
        raise NotAvailable(
            f"{kernel.__name__} needs the package triton, which is not installed; install triton (Linux), or call the "
            "operation's torch form in labkit.ops, which runs everywhere"
        )
    if interpreted():
        if any(tensor.dtype == torch.bfloat16 for tensor in tensors):
            raise NotAvailable(
                f"{kernel.__name__} was given bfloat16 in Triton's interpreter, which rounds it wrongly and multiplies its "
                "bits as integers (triton issue 11584); use float32 or float16 here, and bfloat16 on a GPU"
            )
    elif not all(tensor.is_cuda for tensor in tensors):
        devices = sorted({str(tensor.device) for tensor in tensors})
        raise NotAvailable(
            f"{kernel.__name__} was given tensors on {', '.join(devices)}; compiled Triton kernels take GPU tensors. On a CPU "
            "call the operation's torch form in labkit.ops, or set TRITON_INTERPRET=1 before Python starts"
        )


def arch_of(device: torch.device) -> int:
    """The compute capability for which a launch on `device` chooses its block sizes, as 80 or 90; 80 off a GPU."""
    recording = _RECORDING.get()
    if recording is not None:
        return recording.arch
    return _capability(device) if device.type == "cuda" else 80


@functools.cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`: a block in Triton has no other sizes."""
    return 1 << (n - 1).bit_length()


def ceil_div(n: int, size: int) -> int:
    """How many blocks of `size` cover `n`."""
    return -(-n // size)
