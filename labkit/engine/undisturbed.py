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
    Autocast would round what the engine computes in float32. Raises `NotAvailable` under `FakeTensorMode`, in which no tensor
    has values.
    """
    api: Any = torch
    if api._C._get_dispatch_mode(api._C._TorchDispatchModeKey.FAKE) is not None:
        raise NotAvailable("torch's FakeTensorMode is on, so tensors have no values and no token can be chosen; leave it first")
    with api.inference_mode(False), api.no_grad(), _without_autocast():
        yield


def _without_autocast() -> contextlib.AbstractContextManager[Any]:
    switched_on = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    if not switched_on:
        return contextlib.nullcontext()
    stack = contextlib.ExitStack()
    for kind in switched_on:
        stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
