"""Quantizes an export to INT8 with ONNX Runtime's own quantizer.

The weights of all matrix products are stored in 8 bits. The inputs of the products are quantized while the graph runs.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from labkit.checkpoints.output import check_target, copy_beside, new_folder
from labkit.errors import InvalidRequest
from labkit.graphs.exported import MANIFEST, ExportedModel, open_export
from labkit.graphs.packages import graph_package


def quantize_int8(exported: ExportedModel, target: str | Path) -> ExportedModel:
    """Write a copy of an export to the new folder `target`, with matrix products in INT8.

    The quantizer is `onnxruntime.quantization.quantize_dynamic`: weights get a scale for each output column, and the inputs of
    a matrix product get a scale when the product runs. The embedding keeps its precision. The inputs and outputs of the graphs
    do not change. The quantizer holds one part in memory at a time. Raises `InvalidRequest` for an fp16 export, and
    `NotAvailable` if a package is missing.
    """
    if exported.precision != "fp32":
        raise InvalidRequest(f"{exported.path} is in {exported.precision}; ONNX Runtime's quantizer takes graphs in fp32")
    place = Path(target).expanduser()
    check_target(place, force=False)
    quantization = graph_package("onnxruntime.quantization")
    with _no_warnings(), new_folder(place, needed_bytes=exported.byte_count) as folder:
        for part in exported.parts:
            own = folder / part.path.parent.name
            own.mkdir()
            quantization.quantize_dynamic(
                part.path,
                own / part.path.name,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=["MatMul"],
                use_external_data_format=True,
            )
        about = json.loads((exported.path / MANIFEST).read_text("utf-8"))
        (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        copy_beside(exported.path, folder)
    return open_export(place)


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Hide the advice to optimise the graph first, which the quantizer logs. labkit quantizes the graph as it was exported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
