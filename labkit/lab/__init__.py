"""The names that the notebooks of all labs can import from one place. They are defined in other packages.

Every lab begins with `from labkit.lab import check, hint, passed, predicted, progress_panel`. A lab with kernels also imports
`kernel_device`, `tl` and `triton`. Triton itself is imported only when `tl` or `triton` is used. The other names that the cells
of a lab use are in a separate module, such as `labkit.lab.lab03`.
"""

from __future__ import annotations

from typing import Any

from labkit.exercises import kernels
from labkit.exercises.kernels import kernel_device
from labkit.grading import check, hint, made, passed, predicted, progress_panel, reset, solution, solved, submit

__all__ = [
    "check",
    "hint",
    "kernel_device",
    "made",
    "passed",
    "predicted",
    "progress_panel",
    "reset",
    "solution",
    "solved",
    "submit",
]


def __getattr__(name: str) -> Any:
    if name in ("tl", "triton"):
        return getattr(kernels, name)
    raise AttributeError(f"module 'labkit.lab' has no attribute {name!r}")
