"""Torch modes that pass each call of a torch function, or each operation that torch runs, to a given function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Functions(TorchFunctionMode):
    """Passes each call of a torch function to `see`, except the calls that torch itself makes inside a torch function."""

    def __init__(self, see: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._see(func, args, kwargs or {})


class Dispatches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Passes each operation that torch runs at the lowest level to `see`."""

    def __init__(self, see: Callable[[Any, Any, Any], Any]) -> None:
        # Torch imports this module at the first operation in such a mode. The import takes seconds, which must not count as the
        # learner's time.
        importlib.import_module("torch._dynamo")
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # In inference mode, torch has not yet split some operations (a reshape, for example) into simpler operations.
        if func._can_decompose():
            with self:
                decomposed = func.decompose(*args, **(kwargs or {}))
            if decomposed is not NotImplemented:
                return decomposed
        return self._see(func, args, kwargs or {})
