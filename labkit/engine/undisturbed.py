"""The engine's own state of torch: what the calling thread has switched on for its own tensors does not reach the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from labkit.errors import NotAvailable


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Neither gradients, nor inference mode, nor autocast in the block, whatever the caller has switched on.

    An engine lives on after the caller's `with torch.inference_mode():`, and torch refuses to change the tensors made there.
    Autocast would round what the engine computes in float32. Raises `NotAvailable` where tensors have no values: in
    `FakeTensorMode`, in a transform of `torch.func`, in a trace by `make_fx`.
    """
    if mode := _mode_without_values():
        raise NotAvailable(f"{mode}, so tensors have no values of their own and no token can be chosen; leave it first")
    api: Any = torch
    with api.inference_mode(False), api.no_grad(), _without_autocast():
        yield


def _mode_without_values() -> str:
    """What the calling thread is in that makes stand-ins of tensors; empty for nothing."""
    inner: Any = torch._C
    if inner._functorch.peek_interpreter_stack() is not None:
        return "a transform of torch.func (grad, vmap, functionalize, ...) is running"
    keys = inner._TorchDispatchModeKey
    for key, name in ((keys.FAKE, "FakeTensorMode"), (keys.PROXY, "make_fx"), (keys.FUNCTIONAL, "functionalization")):
        if inner._get_dispatch_mode(key) is not None:
            return f"torch's {name} is on"
    return ""


def _without_autocast() -> contextlib.AbstractContextManager[Any]:
    switched_on = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if not switched_on:
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    for kind in switched_on:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
