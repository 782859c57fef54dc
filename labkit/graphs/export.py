"""Exports a GPT-J to ONNX, whole or in pipeline parts, as a folder that `open_export` can read."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint, config_of, open_checkpoint
from labkit.checkpoints.output import Progress, check_target, copy_beside, new_folder
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.graphs.exported import MANIFEST, ExportedModel, open_export
from labkit.graphs.packages import graph_package
from labkit.graphs.plain_gptj import PlainGPTJ, weight_reader, weight_shapes
from labkit.graphs.tensors import FLOATS, part_tensors
from labkit.graphs.weights_file import write_weights
from labkit.model.part import Part
from labkit.precision import DTYPES
from labkit.torch_state import gradients_restored

OPSETS = range(18, 24)
"""The versions of ONNX's operator set that can be written. torch writes version 18, which onnx converts to other versions."""
OPSET = 20
EXAMPLE_BATCH, EXAMPLE_TOKENS, EXAMPLE_PAST = 2, 3, 5
"""The sizes with which the graph is traced. All three are dynamic in the graph."""


def _quiet(done: int, total: int, name: str) -> None:
    pass


def export(
    source: str | Path | Checkpoint,
    target: str | Path,
    *,
    parts: int = 1,
    precision: str = "fp32",
    opset: int = OPSET,
    seed: int = 0,
    progress: Progress = _quiet,
) -> ExportedModel:
    """Write a GPT-J (a name, a path or a checkpoint) to the new folder `target` as a chain of `parts` ONNX graphs.

    Each part is a folder with `model.onnx` and its weights in `model.onnx.data`. The tokenizer's files are copied. The layers
    are divided into parts in the same way as into pipeline stages (`labkit.model.part`). precision: fp32 or fp16. Each graph is
    made without weights; then the weights are read one tensor at a time. The folder appears only when it is complete. Raises
    `InvalidRequest`, `CheckpointError`, `InsufficientResources`, or `NotAvailable` if onnx or onnxscript is missing.
    """
    config = source.config if isinstance(source, Checkpoint) else config_of(source)
    check_request(config, parts, precision, opset)
    place = Path(target).expanduser()
    check_target(place, force=False)
    for package in ("onnx", "onnxscript"):
        graph_package(package)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source, seed=seed)
    needed = config.parameter_count * DTYPES[precision].itemsize
    with new_folder(place, needed_bytes=needed) as folder:
        for stage in range(parts):
            progress(stage, parts, f"part {stage}")
            _write_part(checkpoint, folder / f"part_{stage}", Part(stage=stage, stages=parts), precision, opset)
        about = {"format": 1, "model": checkpoint.name, "config": config.to_dict()}
        about |= {"precision": precision, "opset": opset, "parts": parts}
        (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", "utf-8")
        copy_beside(checkpoint.path, folder)
    progress(parts, parts, str(place))
    return open_export(place)


def check_request(config: GPTJConfig, parts: int, precision: str, opset: int) -> None:
    """Raise `InvalidRequest` for a number of parts, a precision or an operator set that cannot be exported."""
    if not 1 <= parts <= config.num_layers:
        raise InvalidRequest(f"parts is {parts}; this model has {config.num_layers} layers, so 1 to {config.num_layers} parts")
    if precision not in FLOATS:
        raise InvalidRequest(f"precision is {precision!r}; graphs are exported in {' or '.join(FLOATS)}")
    if opset not in OPSETS:
        raise InvalidRequest(f"opset is {opset}; {OPSETS[0]} to {OPSETS[-1]} are accepted; the default is {OPSET}")


def _write_part(checkpoint: Checkpoint, folder: Path, part: Part, precision: str, opset: int) -> None:
    config, dtype = checkpoint.config, DTYPES[precision]

    def read(name: str) -> Tensor:
        return checkpoint.read(name, dtype=dtype)

    folder.mkdir()
    graph = build_graph(config, part, precision, opset)
    write_weights(graph, folder / "model.onnx.data", weight_shapes(config, part), weight_reader(config, read))
    graph_package("onnx_ir").save(graph, folder / "model.onnx")


def build_graph(config: GPTJConfig, part: Part, precision: str, opset: int) -> Any:
    """The graph of a part as an `onnx_ir.Model`. Its weights have shapes but no values.

    The graph is traced by `torch.export`. The numbers of sequences, new tokens and cached tokens are dynamic.
    """
    tensors = part_tensors(config, precision, part.stage, part.stages, part.layers(config.num_layers))
    model = PlainGPTJ(config, part, dtype=DTYPES[precision], device="meta").eval()
    batch, tokens, past = (torch.export.Dim(name) for name in ("batch", "tokens", "past"))
    sizes = EXAMPLE_BATCH, EXAMPLE_TOKENS
    if part.first:
        entered = torch.zeros(sizes, dtype=torch.int64, device="meta")
    else:
        entered = torch.zeros(*sizes, config.hidden_size, dtype=DTYPES[precision], device="meta")
    cached = (EXAMPLE_BATCH, config.num_heads, EXAMPLE_PAST, config.head_dim)
    caches = [torch.zeros(cached, dtype=DTYPES[precision], device="meta") for _ in tensors.past]
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            (entered, caches),
            dynamo=True,
            opset_version=opset,
            input_names=[tensor.name for tensor in tensors.inputs],
            output_names=[tensor.name for tensor in tensors.outputs],
            dynamic_shapes=({0: batch, 1: tokens}, [{0: batch, 2: past} for _ in caches]),
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # The optimiser folds constants, but must not look for the values of these weights.
        for name in weight_shapes(config, part):
            program.model.graph.initializers[name].const_value = None
        program.optimize()
    graph = program.model
    graph.metadata_props["labkit.part"] = f"{part.stage} of {part.stages}"
    return graph


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hide the exporter's messages about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), gradients_restored(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["ExportedModel", "build_graph", "check_request", "export"]
