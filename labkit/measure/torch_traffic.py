"""Counts the launches of torch operations and the bytes that they read and write. Nothing is timed.

The memory model is simple: every operation reads its inputs from memory and writes its outputs to memory. Separate kernels on a
GPU behave like this. A fused kernel avoids many of these reads and writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.measure.traffic import Traffic

_PICKS_ROWS = ("index", "index_select", "gather", "embedding")
"""Operations that read only the selected rows of their first tensor."""
_OVERWRITES = ("copy_", "fill_", "zero_")
"""Operations that overwrite a tensor without reading it."""
_ALLOCATES = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")


@dataclass
class TorchTraffic(Traffic):
    """Bytes read and written, and the number of operations. On a GPU, each operation would be one launch."""

    launches: int = 0


def torch_traffic(call: Callable[[], Any]) -> TorchTraffic:
    """Count the traffic of all operations in `call`.

    Views and allocations have no traffic. An in-place operation reads and writes its tensor. Work outside torch, such as a
    Triton kernel or a C++ library, is not counted.
    """
    counter = _Counter()
    with counter:
        call()
    return counter.traffic


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic = TorchTraffic()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._can_decompose():  # in inference mode, for example, a linear layer is dispatched as one composite operation
            with self:
                return func.decompose(*args, **kwargs)
        outcome = func(*args, **kwargs)
        name, changes = func.overloadpacket.__name__, func._schema.is_mutable
        inputs, outputs = list(tensors_in((args, kwargs))), list(tensors_in(outcome))
        if outputs and name not in _ALLOCATES and (changes or not _aliases(inputs, outputs)):
            self._count(name, inputs, outputs)
        return outcome

    def _count(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        read, written = sum(map(_bytes, inputs)), sum(map(_bytes, outputs))
        if inputs and name in _PICKS_ROWS:
            read += written - _bytes(inputs[0])
        elif name.startswith(("index_put", "_index_put")):  # an indexed write writes only the bytes of the given values
            read, written = read - _bytes(inputs[0]), _bytes(inputs[-1])
        elif name in _OVERWRITES:
            read -= _bytes(inputs[0])
        self.traffic.bytes_read += read
        self.traffic.bytes_written += written
        self.traffic.launches += 1


def _aliases(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether an operation returned the memory of an input.

    Such an operation made a view, or was a conversion that changed nothing.
    """
    with contextlib.suppress(RuntimeError):  # some tensors have no storage
        memory = {tensor.untyped_storage().data_ptr() for tensor in inputs if tensor.numel()}
        return outputs[0].untyped_storage().data_ptr() in memory
    return False


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in a value: the value itself, or the contents of nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def _bytes(tensor: Tensor) -> int:
    """The bytes that a tensor takes in memory. An expanded tensor takes fewer bytes than its shape suggests."""
    count = tensor.element_size()
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count
