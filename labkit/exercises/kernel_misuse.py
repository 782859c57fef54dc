"""Explains errors from Python code that Triton's interpreter cannot run in a kernel, or that runs in the interpreter but does
not compile for a GPU. This module does not know which exercise a kernel belongs to.

For a call without a grid, an index into a block, or a loop over a block, the interpreter's own errors describe its internals.
For example, `max(block)` raises "'int' object is not iterable". This module replaces such an error by a sentence that says what
to do. `math.sqrt(size)` and `if block:` run in the interpreter, but Triton's compiler refuses them, so this module refuses
them, too. A constant (an argument with `tl.constexpr`) stays a Python number: `math` and `if` may use it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from labkit.exercises.error_advice import NO_GRID
from labkit.exercises.kernel_guard import in_launch
from labkit.exercises.kernel_traceback import show_shortly

INDEX = (
    "in a kernel, you cannot take an element of a tensor by an index: read with tl.load(x + i), write with tl.store(x + i, "
    "value); only [:, None] and [None, :] exist"
)
WHOLE = "Python's max, min, sum and for do not work on a block: use tl.max, tl.min, tl.sum and the like"
BLOCK_IN_IF = (
    "`if`, `while`, `and`, `or` and `not` cannot take a block: use a mask, or tl.where; combine masks with & and |, and "
    "write ~ for not"
)
NUMBER_OF_PYTHON = (
    "math and numpy, float and int do not work on an argument or a block of a kernel: use tl.exp(x), x.to(tl.float32) and the "
    "like; for a root, tl.sqrt(n.to(tl.float32))"
)


class KernelMisuse(TypeError):
    """A kernel is called, or uses a tensor, in a way that Python allows but Triton does not."""


@functools.cache
def explain_misuse() -> None:
    """From now on, explain misuse of kernels that run in the interpreter. A second call does nothing."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    _explain_calls(interpreter.InterpretedFunction)
    _explain_tensors(importlib.import_module("triton.language").tensor)
    _explain_conversions(interpreter)


def _explain_calls(function: Any) -> None:
    """Explain a call without a grid. Only another kernel, during a launch, may call a kernel without a grid."""
    inside = function.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if in_launch():
            return inside(self, *args, **kwargs)
        error = KernelMisuse(f"you call the kernel {self.__name__} like a function, but {NO_GRID}")
        show_shortly(error)
        raise error

    function.__call__ = call


def _explain_tensors(tensor: Any) -> None:
    view = tensor.__getitem__

    @functools.wraps(view)  # This keeps the attribute by which the interpreter recognises Triton's functions.
    def getitem(self: Any, index: Any, _semantic: Any = None) -> Any:
        if not all(map(_is_whole_or_new, index if isinstance(index, tuple) else (index,))):
            raise KernelMisuse(INDEX)
        return view(self, index, _semantic=_semantic)

    def setitem(self: Any, index: Any, value: Any) -> None:
        raise KernelMisuse(INDEX)

    def iterate(self: Any) -> Any:
        raise KernelMisuse(WHOLE)

    tensor.__getitem__, tensor.__setitem__, tensor.__iter__ = getitem, setitem, iterate


def _explain_conversions(interpreter: Any) -> None:
    """Refuse to turn a block into a truth value, and an argument or a block into a Python number.

    Triton sets the methods for these conversions at each launch, and removes them afterwards. Triton's own functions may use
    these conversions.
    """
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        truth, index = tensor.__bool__, tensor.__index__

        def to_bool(self: Any) -> Any:
            if self.handle.data.size > 1 and not _is_in_triton():
                raise KernelMisuse(BLOCK_IN_IF)
            return truth(self)

        def to_number(self: Any, *dtype: Any, **options: Any) -> Any:
            if not _is_in_triton():
                raise KernelMisuse(NUMBER_OF_PYTHON)
            return index(self)

        tensor.__bool__ = to_bool
        for name in ("__float__", "__int__", "__array__"):
            scope.set_attr(tensor, name, to_number)

    interpreter._patch_lang_tensor = patched


def _is_in_triton() -> bool:
    """Whether the caller of the calling method is a function of Triton."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("triton.")


def _is_whole_or_new(index: Any) -> bool:
    """Whether an index is `:` or None."""
    index = getattr(index, "value", index)  # a constant of Triton
    return index is None or (isinstance(index, slice) and index == slice(None))
