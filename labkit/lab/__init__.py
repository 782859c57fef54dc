"""Everything that the notebook of a lab imports. All names are defined in other packages.

`from labkit.lab import check, hint, passed, predicted, progress_panel` is the set-up of every lab. A lab with kernels also
imports `kernel_device`, `tl` and `triton`; Triton itself is loaded only when one of the last two names is used. Each lab has
a module for the other names that its cells use: `labkit.lab.lab03`, for example.
"""

from __future__ import annotations

from typing import Any

from labkit.exercises import kernels
from labkit.exercises.kernels import kernel_device
from labkit.grading import check, hint, passed, predicted, progress_panel

__all__ = ["check", "hint", "kernel_device", "passed", "predicted", "progress_panel"]


def __getattr__(name: str) -> Any:
    if name in ("tl", "triton"):
        return getattr(kernels, name)
    raise AttributeError(f"module 'labkit.lab' has no attribute {name!r}")
