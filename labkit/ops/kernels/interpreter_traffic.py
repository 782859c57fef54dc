"""Count the bytes that kernels move to and from memory while Triton's interpreter runs them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from labkit.errors import NotAvailable
from labkit.measure.traffic import Traffic
from labkit.ops.kernels.triton_runtime import interpreted


@contextlib.contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count the bytes that kernels load and store: `with count_traffic() as traffic: kernel[grid](...)`.

    Masked lanes do not count. An address that occurs several times in one load counts once, because the hardware reads it once.
    If two loads read the same address, the address counts twice, because caches are not modelled. An atomic operation counts as
    a read and a write. Raises `NotAvailable` in a process that does not interpret kernels.
    """
    if not interpreted():
        raise NotAvailable(
            "traffic is counted in Triton's interpreter only; install triton and set TRITON_INTERPRET=1 before Python starts"
        )
    from triton.runtime.interpreter import interpreter_builder as builder

    traffic = Traffic()
    names = ("create_masked_load", "create_masked_store", "create_atomic_rmw", "create_atomic_cas")
    plain = {name: getattr(builder, name) for name in names}

    def load(ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        traffic.bytes_read += _bytes(ptrs, mask)
        return plain["create_masked_load"](ptrs, mask, *rest, **named)

    def store(ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        traffic.bytes_written += _bytes(ptrs, mask)
        return plain["create_masked_store"](ptrs, value, mask, *rest, **named)

    def atomic_rmw(op: Any, ptr: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.bytes_read += _bytes(ptr, mask)
        traffic.bytes_written += _bytes(ptr, mask)
        return plain["create_atomic_rmw"](op, ptr, value, mask, *rest)

    def atomic_cas(ptr: Any, *rest: Any) -> Any:
        traffic.bytes_read += _bytes(ptr, None)
        traffic.bytes_written += _bytes(ptr, None)
        return plain["create_atomic_cas"](ptr, *rest)

    for name, counted in zip(names, (load, store, atomic_rmw, atomic_cas), strict=True):
        setattr(builder, name, counted)
    try:
        yield traffic
    finally:
        for name in names:
            setattr(builder, name, plain[name])


def _bytes(ptrs: Any, mask: Any) -> int:
    """Return the number of different addresses in the lanes that are not masked, times the size of one element in bytes."""
    on = True if mask is None else np.asarray(mask.data, dtype=bool)  # a computed mask may hold the integers 0 and 1
    addresses = ptrs.data[np.broadcast_to(on, ptrs.data.shape)]
    return int(np.unique(addresses).size) * int(ptrs.get_element_ty().primitive_bitwidth) // 8
