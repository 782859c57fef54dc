"""Writes the weights of a graph, one tensor at a time, into a file beside the graph. ONNX calls this "external data"."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from labkit.checkpoints.output import write_tensor
from labkit.graphs.packages import graph_package

ALIGNMENT = 4096
"""Each tensor begins at a multiple of this many bytes, so that a runtime can map it into memory instead of copying it."""


def write_weights(model: Any, path: Path, names: Collection[str], weight: Callable[[str], Tensor]) -> int:
    """Write the tensors called `names` to `path`, and let the graph's initializers refer to them.

    Returns the size of the file in bytes. model: an `onnx_ir.Model` whose weights have no values yet. `weight` returns a tensor
    by its name. Only one tensor is in memory at a time. Raises `KeyError` if the graph lacks a tensor.
    """
    ir = graph_package("onnx_ir")
    with path.open("wb") as file:
        for name in names:
            value = model.graph.initializers[name]
            file.write(bytes(-file.tell() % ALIGNMENT))
            begin, tensor = file.tell(), weight(name)
            write_tensor(file, tensor)
            shape = ir.Shape(tensor.shape)
            value.const_value = ir.ExternalTensor(
                path.name, begin, tensor.nbytes, value.dtype, shape=shape, name=name, base_dir=path.parent
            )
        return file.tell()
