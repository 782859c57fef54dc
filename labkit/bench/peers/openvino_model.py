"""Converts a GPT-J to OpenVINO's format: traces the model of transformers, makes it stateful and compresses it with NNCF."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labkit.bench.peers.conversion_space import check_conversion_fits
from labkit.bench.peers.huggingface import cache_argument, transformers_model
from labkit.bench.peers.openvino_stateful import make_stateful
from labkit.bench.peers.separate_process import run_in_separate_process
from labkit.bench.peers.telemetry import without_telemetry
from labkit.bits_per_weight import BITS
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable
from labkit.precision import DTYPES, precision_name

GROUP_SIZE = 32
"""The number of weights that share a scale in int4. It is the same number as in labkit."""


LARGE = 100_000_000
"""Models with at least this many parameters are converted in separate processes, because tracing leaks the model."""


def convert(checkpoint: Checkpoint, folder: Path, precision: str) -> str:
    """Write `openvino_model.xml` and `openvino_model.bin` into `folder`; return a description of the weights.

    For int8 and int4, a first step writes a file with the checkpoint's stored weights, and a second step compresses this file.
    Raises
    `InsufficientResources` when memory or disk space is too small.
    """
    dtype = DTYPES.get(precision, checkpoint.weight_dtype)
    check_conversion_fits(checkpoint, dtype, BITS[precision], folder)
    path, wide = folder / "openvino_model.xml", folder / "wide.xml"
    apart = checkpoint.config.parameter_count >= LARGE
    steps: list[tuple[Any, ...]] = [(write_traced, checkpoint, dtype, path if precision in DTYPES else wide)]
    if precision not in DTYPES:
        steps.append((write_compressed, wide, path, precision, checkpoint.config))
    words = [run_in_separate_process(*step) if apart else step[0](*step[1:]) for step in steps]
    for leftover in (wide, wide.with_suffix(".bin")):
        leftover.unlink(missing_ok=True)
    return str(words[-1])


def write_traced(checkpoint: Checkpoint, dtype: torch.dtype, path: Path) -> str:
    """Write the model with its weights in `dtype`; return the name of this precision."""
    without_telemetry()
    import openvino

    model = _traced(checkpoint, dtype)
    make_stateful(model, checkpoint.config)
    openvino.save_model(model, path, compress_to_fp16=False)
    return precision_name(dtype)


class _Step(nn.Module):
    """The model as a function of tensors, which can be traced.

    It takes tokens, masks, positions and the cache, and returns the logits and the new cache.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, ...]:
        import transformers

        cache: Any = transformers.DynamicCache(config=self.model.config)
        for layer, (keys, values) in zip(cache.layers, past, strict=True):
            # Assign the tensors: `update` would prepend an empty tensor, which the conversion cannot concatenate.
            layer.keys, layer.values, layer.dtype, layer.device = keys, values, keys.dtype, keys.device
            layer.is_initialized = True
        named = {cache_argument(self.model): cache}
        out = self.model(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=True, **named)
        return (out.logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values)))


def _traced(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """Trace the model. Attention is one fused operation; the cache is an input, and the new cache is an output."""
    import openvino
    from openvino.frontend.pytorch import patch_model

    config = checkpoint.config
    model = transformers_model(checkpoint, torch.device("cpu"), dtype)
    if not model._supports_sdpa:
        raise NotAvailable("peer openvino needs a version of transformers whose GPT-J has fused attention, such as 5.24")
    model.set_attn_implementation("sdpa")
    if dtype != torch.float32:
        # Weights stay in 16 bits. Activations are traced in float32, and the runtime chooses their precision.
        getattr(patch_model, "__make_16bit_traceable")(model)
    batch, new, old = 2, 3, 4
    past = torch.zeros(batch, config.num_heads, old, config.head_dim)
    example = (
        torch.ones(batch, new, dtype=torch.long),
        torch.ones(batch, old + new, dtype=torch.long),
        torch.arange(old, old + new).expand(batch, new),
        [(past, past) for _ in range(config.num_layers)],
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns that Python values become constants; these values are constant
        return openvino.convert_model(_Step(model), example_input=example)


def write_compressed(source: Path, target: Path, precision: str, config: GPTJConfig) -> str:
    """Round the matrices of a written model with NNCF: to int8 by row, or to int4 in groups. Return how the weights are stored.

    With int4, head and embedding are int8. NNCF would treat the table of rotary sines and cosines as an embedding, so the table
    is excluded.
    """
    without_telemetry()
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT8_SYM}
    words = "int8 by row (symmetric)"
    if precision == "int4":
        options = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": GROUP_SIZE, "ratio": 1.0}
        words = f"int4 (symmetric, groups of {GROUP_SIZE}), lm_head and embedding int8"
    kept = nncf.IgnoredScope(names=_lookups(model, [config.context_length, config.rotary_dim]))
    compressed = nncf.compress_weights(model, ignored_scope=kept, **options)
    openvino.save_model(compressed, target, compress_to_fp16=False)
    return words


def _lookups(model: Any, shape: list[int]) -> list[str]:
    """The names of the operations that look up rows in a constant table of this shape."""
    names = []
    for node in model.get_ops():
        if node.get_type_name() == "Gather":
            table = node.input_value(0).get_node()
            if table.get_type_name() == "Convert":
                table = table.input_value(0).get_node()
            if table.get_type_name() == "Constant" and list(table.get_output_shape(0)) == shape:
                names.append(str(node.get_friendly_name()))
    return names
