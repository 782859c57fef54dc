"""Defines and launches Triton kernels. Where Triton is not installed, a stand-in takes its place.

A process runs kernels either compiled, on a GPU, or interpreted, on CPU tensors. If `TRITON_INTERPRET=1` is set in the
environment before Triton is imported, the whole process uses the interpreter.
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
"""Whether the package triton is installed."""


class _Absent:
    """Replaces `triton.language` where Triton is missing. The stand-in has every attribute, so kernels can be defined."""

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
"""What `jit` returns: `triton.JITFunction`, or `InterpretedFunction` in an interpreted process.

The annotation `tl.tensor` stands for three things: an address, if a tensor was passed to the kernel's parameter; a number, if a
number was passed; a block of values, if the parameter belongs to a function that kernels call.
"""


def jit(function: Callable[..., Any]) -> Kernel:
    """Apply `triton.jit`. If Triton is missing, return the plain function, which can then only be passed to `launch`."""
    return triton.jit(function) if INSTALLED else function


def jit_once_for_all(*names: str) -> Callable[[Callable[..., Any]], Kernel]:
    """Like `jit`, but Triton does not compile the kernel again when the arguments with these names have new values.

    By default, Triton compiles a kernel again when an integer is 1 or becomes a multiple of 16, or when an address becomes a
    multiple of 16 bytes. This default is useful for integers that give the shape of a model. But the integers that describe a
    batch, and the addresses of slices, change in each step, and each compilation would stop the server for seconds.
    """

    def decorate(function: Callable[..., Any]) -> Kernel:
        return triton.jit(do_not_specialize=list(names))(function) if INSTALLED else function

    return decorate


def interpreted() -> bool:
    """Whether this process runs kernels in Triton's interpreter. The choice was made when Triton was imported."""
    return INSTALLED and hasattr(tl.sum, "rewrite")  # `tl.sum` is a standard function that jit wrapped at import


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: `args` are passed by position, `options` by name (constexprs, num_warps, num_stages)."""

    kernel: Kernel
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass
class _Recording:
    arch: int
    launches: list[Launch]


# A recording applies to one thread only; other threads still launch kernels.
_RECORDING: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recorded(arch: int = 90) -> Iterator[list[Launch]]:
    """Inside the block, no kernel runs: the yielded list collects the launches for a GPU of compute capability `arch` / 10.

    If the tensors are on the device "meta", even the largest shapes need no memory. Such tensors have no values, so a launcher
    that reads values on the host fails here, as it would in a CUDA graph.
    """
    recording = _Recording(arch, [])
    before = _RECORDING.set(recording)
    try:
        yield recording.launches
    finally:
        _RECORDING.reset(before)


def launch(kernel: Kernel, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run `kernel[grid](*args, **options)` on the device of the tensors; an empty grid launches nothing.

    Raises `NotAvailable` if this process cannot run the kernel: if Triton is not installed, if the process compiles kernels and
    a tensor is on the CPU, or if the process interprets kernels and a tensor is bfloat16.
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
            f"{kernel.__name__} needs the package triton, which is not installed; install triton (Linux), or use the "
            "torch version of the operation in labkit.ops, which runs everywhere"
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
            f"{kernel.__name__} was given tensors on {', '.join(devices)}; compiled Triton kernels take GPU tensors. For "
            "CPU tensors, use the torch version of the operation in labkit.ops. Or set TRITON_INTERPRET=1 before Python starts."
        )


def arch_of(device: torch.device) -> int:
    """Ten times the compute capability of `device`, such as 90; 80 if `device` is no GPU. It decides the block sizes."""
    recording = _RECORDING.get()
    if recording is not None:
        return recording.arch
    return _capability(device) if device.type == "cuda" else 80


@functools.cache
def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`. The size of a Triton block must be a power of two."""
    return 1 << (n - 1).bit_length()


def ceil_div(n: int, size: int) -> int:
    """The number of blocks of `size` that cover `n`."""
    return -(-n // size)
