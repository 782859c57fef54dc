"""Checks that the weights of a directory belong to the model that its `config.json` describes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.weight_files import WeightFiles
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError
from labkit.plurals import counted

_NO_WEIGHTS = re.compile(
    r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias|scale_attn|embed_positions|rotary_emb\.inv_freq|[kv]_scale)"
)
"""The names of tensors that labkit computes itself: masks and position tables that older versions of transformers stored, and
the scales of a KV cache in 8 bits.
"""
_LAYER = re.compile(r"transformer\.h\.(\d+)\.")
_MOST_NAMED = 3


def check_fit(
    folder: Path, config: GPTJConfig, weights: WeightFiles, quantized: Mapping[str, Collection[str]] = MappingProxyType({})
) -> None:
    """Raise `CheckpointError`, with the reason, if a weight is missing, has a wrong shape or is not part of the model.

    quantized: the weights that are stored in a quantized form, each with the names of the tensors that hold it. This function
    does not check these tensors.
    """
    expected = expected_shapes(config)
    for name, shape in expected.items():
        if name in quantized:
            continue
        if name not in weights.tensors:
            raise CheckpointError(
                f"{folder} lacks the weight {name} (shape {shape}, floating point); "
                + _reason(config, name, is_there=name in weights.names)
            )
        found = weights.tensors[name].entries[name].shape
        if found != shape:
            fields = _fields(config, shape)
            raise CheckpointError(f"{folder}: {name} has shape {found}, but config.json calls for {shape} ({fields})")
    strays = weights.names - expected.keys() - {part for parts in quantized.values() for part in parts}
    _check_strays(folder, config, sorted(name for name in strays if not _NO_WEIGHTS.fullmatch(name)))


def _reason(config: GPTJConfig, name: str, *, is_there: bool) -> str:
    if is_there:
        return "it exists, but labkit does not read its dtype; floating point of 16, 32 or 64 bits is accepted"
    too_many = f", or n_layer {config.num_layers} in config.json is too many" if _LAYER.match(name) else ""
    return f"the checkpoint is incomplete{too_many}"


def _check_strays(folder: Path, config: GPTJConfig, strays: list[str]) -> None:
    if not strays:
        return
    more = f" and {len(strays) - _MOST_NAMED} more" if len(strays) > _MOST_NAMED else ""
    named = ", ".join(strays[:_MOST_NAMED]) + more
    layers = 1 + max((int(found[1]) for name in strays if (found := _LAYER.match(name))), default=-1)
    if layers > config.num_layers:
        raise CheckpointError(
            f"{folder} holds weights of {counted(layers, 'layer')}, but n_layer in config.json is {config.num_layers}: {named} "
            "would not be used; correct n_layer, or use the weights of the model that config.json describes"
        )
    if any(name.startswith(("transformer.", "lm_head.")) for name in strays):
        raise CheckpointError(
            f"{folder} holds weights that do not belong to a GPT-J: {named}; a model with these weights computes something "
            "else (merge adapters into the weights first)"
        )
    warnings.warn(f"{folder} holds weights that do not belong to a GPT-J and are ignored: {named}", stacklevel=1)


def _fields(config: GPTJConfig, shape: tuple[int, ...]) -> str:
    """The settings of `config.json` that determine a shape."""
    lengths = {"vocab_size": config.vocab_size, "n_embd": config.hidden_size, "n_inner": config.intermediate_size}
    return ", ".join(f"{name} {length}" for name, length in lengths.items() if length in shape)
