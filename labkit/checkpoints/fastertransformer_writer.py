"""Writes a GPT-J in FasterTransformer's form, one tensor at a time; `fastertransformer` says what the form is."""

from __future__ import annotations

import configparser
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint
from labkit.checkpoints.fastertransformer import CONFIG, DTYPES, NO_TOKEN, file_shapes
from labkit.checkpoints.output import Progress, write_tensor
from labkit.checkpoints.split import share
from labkit.config import GPTJConfig

_WHOLE = {
    "model.wte": "transformer.wte.weight",
    "model.final_layernorm.weight": "transformer.ln_f.weight",
    "model.final_layernorm.bias": "transformer.ln_f.bias",
    "model.lm_head.weight": "lm_head.weight",
    "model.lm_head.bias": "lm_head.bias",
}


def write_fastertransformer(
    checkpoint: Checkpoint, folder: Path, tensor_parallel: int, dtype: torch.dtype, source: torch.dtype, progress: Progress
) -> None:
    """Fill an empty folder. source: what the weights were stored as, noted for the way back.

    `config.ini` comes last, so that an unfinished folder cannot be taken for a whole one.
    """
    shapes = file_shapes(checkpoint.config, tensor_parallel)
    for number, name in enumerate(shapes):
        progress(number, len(shapes), name)
        tensor = _content(checkpoint, name.removesuffix(".bin"), tensor_parallel, dtype)
        assert tensor.shape == shapes[name], f"{name} is {tensor.shape}"
        with (folder / name).open("wb") as file:
            write_tensor(file, tensor)
    (folder / CONFIG).write_text(_config_text(checkpoint.config, dtype, source), "utf-8")
    progress(len(shapes), len(shapes), CONFIG)


def _content(checkpoint: Checkpoint, stem: str, tensor_parallel: int, dtype: torch.dtype) -> Tensor:
    """The array of one file."""
    if stem in _WHOLE:
        return checkpoint.read(_WHOLE[stem], dtype=dtype)
    layer, part = stem.removeprefix("model.layers.").split(".", 1)
    prefix = f"transformer.h.{layer}."
    if part.startswith("input_layernorm."):
        return checkpoint.read(f"{prefix}ln_1.{part.removeprefix('input_layernorm.')}", dtype=dtype)
    if part == "mlp.dense_4h_to_h.bias":
        return checkpoint.read(f"{prefix}mlp.fc_out.bias", dtype=dtype)
    part, _, rank = part.rpartition(".")
    heads, inner = (share(size, int(rank), tensor_parallel) for size in _sizes(checkpoint.config))
    if part == "attention.query_key_value.weight":
        fused = torch.empty(checkpoint.config.hidden_size, 3, heads.stop - heads.start, dtype=dtype, device="cpu")
        for index, which in enumerate("qkv"):
            fused[:, index] = checkpoint.read(f"{prefix}attn.{which}_proj.weight", rows=heads, dtype=dtype).T
        return fused
    if part == "attention.dense.weight":
        return checkpoint.read(f"{prefix}attn.out_proj.weight", columns=heads, dtype=dtype).T
    if part == "mlp.dense_4h_to_h.weight":
        return checkpoint.read(f"{prefix}mlp.fc_out.weight", columns=inner, dtype=dtype).T
    tensor = checkpoint.read(f"{prefix}mlp.fc_in.{part.rpartition('.')[2]}", rows=inner, dtype=dtype)
    return tensor.T if tensor.dim() == 2 else tensor


def _sizes(config: GPTJConfig) -> tuple[int, int]:
    return config.hidden_size, config.intermediate_size


def _config_text(config: GPTJConfig, dtype: torch.dtype, source: torch.dtype) -> str:
    names = {dtype: name for name, dtype in DTYPES.items()}
    lines = {
        "gptj": {
            "model_name": "gptj",
            "head_num": config.num_heads,
            "size_per_head": config.head_dim,
            "inter_size": config.intermediate_size,
            "num_layer": config.num_layers,
            "rotary_embedding": config.rotary_dim,
            "vocab_size": config.vocab_size,
            "start_id": NO_TOKEN if config.bos_token_id is None else config.bos_token_id,
            "end_id": config.end_token_ids[0] if config.end_token_ids else NO_TOKEN,
            "weight_data_type": names[dtype],
        },
        "labkit": {
            "context_length": config.context_length,
            "layer_norm_epsilon": repr(config.layer_norm_epsilon),
            "source_data_type": names.get(source, names[dtype]),
            **({"end_ids": ",".join(map(str, config.end_token_ids))} if len(config.end_token_ids) > 1 else {}),
        },
    }
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict({section: {key: str(value) for key, value in values.items()} for section, values in lines.items()})
    text = StringIO()
    parser.write(text)
    return text.getvalue()
