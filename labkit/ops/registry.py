"""Operations by name: `operation` chooses the kernel for each call, and `use` replaces an operation with another function."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from labkit.errors import InvalidRequest
from labkit.ops.backend import on_native, on_triton

P = ParamSpec("P")
R = TypeVar("R")

OPERATIONS: dict[str, Callable[..., Any]] = {}
"""The PyTorch function of each operation, by the operation's name. The function runs when no kernel accepts the tensors."""
_SWAPPED: dict[str, Callable[..., Any]] = {}


@overload
def operation(*, decided_by: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


@overload
def operation(
    *, native: Callable[P, R], triton_takes: Callable[P, bool] | None = None, decided_by: int = 0
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def operation(
    *,
    native: Callable[P, R] | None = None,
    triton_takes: Callable[P, bool] | None = None,
    decided_by: int = 0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register the decorated function as the operation with the function's name.

    Each call runs the first of these that applies:

    1. the function that `use` has put in the operation's place;
    2. `native`, the kernel of the native library, for a tensor that `on_native` accepts;
    3. the Triton kernel, for a tensor that `on_triton` accepts, if `triton_takes` (when given) returns true for the arguments;
    4. the decorated function itself, which computes in PyTorch.

    Steps 2 and 3 check the tensor that is argument number `decided_by`. The Triton kernel is `<name>_triton` in
    `labkit.ops.kernels.<name>`, which is imported when it is first needed.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__
        parameter = list(inspect.signature(function).parameters)[decided_by]
        OPERATIONS[name] = function

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            chosen: Callable[P, R] | None = _SWAPPED.get(name) if _SWAPPED else None
            if chosen is None:
                tensor: Any = args[decided_by] if len(args) > decided_by else kwargs.get(parameter)
                if tensor is None:
                    chosen = function  # an argument is missing; the call raises Python's own error, which names it
                elif native is not None and on_native(tensor):
                    chosen = native
                elif tensor.is_cuda and on_triton(tensor) and (triton_takes is None or triton_takes(*args, **kwargs)):
                    chosen = triton_kernel(name)
                else:
                    chosen = function
            return chosen(*args, **kwargs)

        return call

    return decorate


@functools.cache
def triton_kernel(name: str) -> Callable[..., Any]:
    """The function that runs an operation as a Triton kernel; importing the kernel takes about a second."""
    launcher: Callable[..., Any] = getattr(importlib.import_module(f"labkit.ops.kernels.{name}"), f"{name}_triton")
    return launcher


class use:  # noqa: N801 - reads as a verb where it is called: `with ops.use(layer_norm=mine):`
    """Replace operations with other functions: `ops.use(layer_norm=mine)` takes effect at once and lasts until `restore()`.

    Used as a context manager (`with ops.use(...):`), `use` restores the previous functions at the end of the block. Running
    engines call the new functions from their next step on. While any operation is replaced, running engines call their
    operations one by one. Each function gets exactly the arguments of the operation that it replaces. Raises `InvalidRequest`
    for an unknown operation and for a value that cannot be called.
    """

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            if name not in OPERATIONS:
                raise InvalidRequest(f"there is no operation {name!r}; the operations are {', '.join(sorted(OPERATIONS))}")
            if not callable(function):
                raise InvalidRequest(f"operation {name} was given {function!r}; give a function that takes the same arguments")
        self._before = {name: _SWAPPED.get(name) for name in functions}
        _SWAPPED.update(functions)

    def restore(self) -> None:
        """Restore the previous functions; a second call does nothing."""
        for name, function in self._before.items():
            if function is None:
                _SWAPPED.pop(name, None)
            else:
                _SWAPPED[name] = function
        self._before = {}

    def __enter__(self) -> use:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def swapped() -> list[str]:
    """The names of the operations that are currently replaced."""
    return sorted(_SWAPPED)


def replacements() -> dict[str, Callable[..., Any]]:
    """The replaced operations by name, each with the function that runs in its place."""
    return dict(_SWAPPED)
