"""Protects the engine from torch modes that the calling thread has switched on, such as autocast.

The module also has a decorator for torch's inference mode, and a context manager that limits the number of torch's threads.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch

from labkit.errors import NotAvailable

P = ParamSpec("P")
T = TypeVar("T")


def inference(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator: the function runs in torch's inference mode. A Ctrl-C cannot leave the mode on.

    `torch.inference_mode` enters and leaves the mode in Python methods, and Python can raise `KeyboardInterrupt` in them. Then
    the mode stays on until the exception is deleted, which in a notebook is when the next cell fails. At that moment torch
    restores the state from before the mode, which in a step of the engine is a state without gradients. Here functions in C
    enter and leave the mode, and an interruption cannot come in the middle of such a function.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        mode = _InferenceMode(True)
        try:
            mode.__enter__()
            return function(*args, **kwargs)
        finally:
            mode.__exit__(None, None, None)

    return run


class undisturbed(contextlib.ContextDecorator):  # noqa: N801
    """Switches off gradients, inference mode and autocast inside the block if the caller has switched them on.

    An engine can be used again after the caller's `with torch.inference_mode():` block has ended, but torch refuses to change
    tensors that were created in such a block. Autocast would round results that the engine computes in float32. Raises
    `NotAvailable` where tensors have no values: in `FakeTensorMode`, in a transform of `torch.func`, and in a trace by
    `make_fx`.

    Every step of the engine enters this block, so the block must be cheap: if the caller uses neither inference mode nor
    autocast, it only sets one flag.
    """

    def __enter__(self) -> None:
        if mode := _mode_without_values():
            raise NotAvailable(f"{mode}, so tensors have no values, and no token can be chosen; leave this mode first")
        self._stack: contextlib.ExitStack | None = None
        if torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self._stack = _with_nothing_on()
        self._gradients = torch.is_grad_enabled()
        _set_gradients(False)

    def __exit__(self, *_: object) -> None:
        _set_gradients(self._gradients)
        if self._stack is not None:
            self._stack.close()

    def _recreate_cm(self) -> undisturbed:
        """A decorated function enters a new object at each call, because several threads may be inside."""
        return undisturbed()


class gradients_restored(contextlib.ContextDecorator):  # noqa: N801
    """After the block, gradients are on or off as they were before it. Use it around `undisturbed` and `torch.no_grad`.

    If a Ctrl-C arrives exactly when `undisturbed` or `torch.no_grad` ends, they do not restore the caller's setting.
    """

    def __enter__(self) -> None:
        self._gradients = torch.is_grad_enabled()

    def __exit__(self, *_: object) -> None:
        _set_gradients(self._gradients)

    def _recreate_cm(self) -> gradients_restored:
        """A decorated function enters a new object at each call, because several threads may be inside."""
        return gradients_restored()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use this many CPU threads inside the block; None leaves their number unchanged."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_InferenceMode: Callable[[bool], Any] = getattr(torch._C, "_InferenceMode")  # noqa: B009
"""The object in C that `torch.inference_mode` enters and leaves."""

_set_gradients: Callable[[bool], None] = getattr(torch._C, "_set_grad_enabled")  # noqa: B009
"""The function that `torch.no_grad` calls; calling it directly is cheaper."""


def _mode_without_values() -> str:
    """Return the name of the torch mode of the calling thread in which tensors have no values; "" if no such mode is on."""
    inner: Any = torch._C
    if inner._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func (grad, vmap, functionalize, ...) is running"
    keys = inner._TorchDispatchModeKey
    for key, name in ((keys.FAKE, "FakeTensorMode"), (keys.PROXY, "make_fx"), (keys.FUNCTIONAL, "functionalization")):
        if inner._get_dispatch_mode(key) is not None:
            return f"torch's {name} is on"
    return ""


def _with_nothing_on() -> contextlib.ExitStack:
    """Enter contexts that switch off inference mode and autocast, and return them as one stack."""
    api: Any = torch
    stack = contextlib.ExitStack()
    stack.enter_context(api.inference_mode(False))
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
