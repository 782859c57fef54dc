"""Watches what torch does in a block of code where kernels should do the work."""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labkit.exercises.contracts.torch_modes import Dispatches, Functions
from labkit.exercises.kernel_guard import in_launch
from labkit.measure.torch_traffic import tensors_in

_SIGNS = {
    "add": " (+)",
    "sub": " (-)",
    "mul": " (*)",
    "truediv": " (/)",
    "div": " (/)",
    "matmul": " (@)",
    "pow": " (**)",
    "neg": " (-)",
    "getitem": "x[indices]",
    "setitem": "x[...] = ...",
}
_PRINTS = ("__repr__", "__str__", "__format__")
_LEAVES_TORCH = ("numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage")
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
_MAKES = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill_", "zero_", "lift_fresh")
_WHOLE = (torch.int32, torch.int64, torch.bool)
"""The dtypes of slots, positions and lengths, and of masks. Torch may compute with tensors of these dtypes."""
_OWN = (
    "labkit.ops",
    "labkit.weight_formats",
    "labkit.native",
    "labkit.model",
    "labkit.engine",
    "labkit.exercises.lab02",
    "labkit.answers",
)


class TorchGuard:
    """Watches torch in a block of code. `refused` describes the first operation that a kernel should have done.

    Torch may allocate memory, make views, read shapes and print. Torch may also compute with whole numbers (slots, positions).
    With `results_are_free`, torch may also compute with the results of kernels, but not with `tensors`. Memory that is
    allocated without being initialised is filled with NaN.
    """

    def __init__(self, tensors: Mapping[str, Tensor], function: Any, *, results_are_free: bool = False) -> None:
        self.refused = ""
        self._names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items()}
        self._results_are_free = results_are_free
        self._code = getattr(function, "__code__", None)
        self._asked_for: list[str] = []
        self._modes = Functions(self._function), Dispatches(self._dispatch)

    def __enter__(self) -> TorchGuard:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*raised)  # type: ignore[no-untyped-call]

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        if not in_launch() and name in _LEAVES_TORCH and any(map(self._guarded, tensors_in(args))):
            self._refuse(name, args)
        self._asked_for.append(name)
        try:
            return func(*args, **kwargs)
        finally:
            self._asked_for.pop()

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        outcome = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if in_launch():
            return outcome
        if name in _EMPTY:
            return _fill(outcome)
        tensors = list(tensors_in((args, kwargs)))
        free = name in _MAKES or (func.is_view and str(func) != "aten.view.dtype") or set(self._asked_for) & set(_PRINTS)
        if not free and any(map(self._guarded, tensors)):
            self._refuse(self._asked_for[0] if self._asked_for else name, tensors)
        return outcome

    def _guarded(self, tensor: Tensor) -> bool:
        if tensor.dtype in _WHOLE:
            return False
        return not self._results_are_free or self._name(tensor) != ""

    def _name(self, tensor: Tensor) -> str:
        with contextlib.suppress(RuntimeError):
            return self._names.get(tensor.untyped_storage().data_ptr(), "")
        return ""

    def _refuse(self, name: str, values: Any) -> None:
        if self.refused:
            return
        own, line = self._caller()
        if own:
            self.refused = f"it calls labkit's own {own}{line}: your kernel has to do this work"
            return
        plain = name.strip("_")
        base = plain[1:] if plain[1:] in _SIGNS else plain  # radd, imul
        said = _SIGNS.get(base, "") if base.endswith("item") else f"torch.{base}" + _SIGNS.get(base, "")
        on = next(filter(None, map(self._name, filter(self._guarded, tensors_in(values)))), "a tensor")
        self.refused = f"`{said}` works on {on} in torch, outside your kernel{line}: let the kernel do this work"

    def _caller(self) -> tuple[str, str]:
        """The function of labkit that ran this operation (or ""), and the line of the learner's function that called it."""
        own, frame = "", sys._getframe(1)
        while frame is not None:
            if self._code is not None and frame.f_code.co_filename == self._code.co_filename:
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                return own, f" (in your line `{text}`)" if text else ""
            module = frame.f_globals.get("__name__", "")
            if module.startswith("labkit.grading"):
                break
            if module.startswith(_OWN) and module != "labkit.ops.registry":
                own = frame.f_code.co_name
            frame = frame.f_back  # type: ignore[assignment]
        return own, ""


def _fill(tensor: Tensor) -> Tensor:
    """Fill newly allocated memory, because it might still contain the right answer from an earlier call."""
    if tensor.device.type == "meta":
        return tensor
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 63)
