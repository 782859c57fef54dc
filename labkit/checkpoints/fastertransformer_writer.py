"""Writes a GPT-J in FasterTransformer's format, one file at a time.

The module `fastertransformer_files` lists which file holds which tensors.
"""

from __future__ import annotations

import configparser
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.fastertransformer import CONFIG, DTYPES, NO_TOKEN
from labkit.checkpoints.fastertransformer_files import StoredFile, files_of
from labkit.checkpoints.output import Progress, write_tensor
from labkit.config import GPTJConfig


def write_fastertransformer(
    checkpoint: Checkpoint, folder: Path, tensor_parallel: int, dtype: torch.dtype, source: torch.dtype, progress: Progress
) -> None:
    """Write the checkpoint into an empty folder. source: the original dtype, stored so that converting back can restore it.

    `config.ini` is written last, so that an unfinished folder is not mistaken for a complete one.
    """
    files = files_of(checkpoint.config, tensor_parallel)
    for number, (name, stored) in enumerate(files.items()):
        progress(number, len(files), name)
        tensor = _content(checkpoint, stored, tensor_parallel, dtype)
        assert tensor.shape == stored.shape, f"{name} is {tensor.shape}"
        with (folder / name).open("wb") as file:
            write_tensor(file, tensor)
    (folder / CONFIG).write_text(_config_text(checkpoint.config, dtype, source), "utf-8")
    progress(len(files), len(files), CONFIG)


def _content(checkpoint: Checkpoint, stored: StoredFile, tensor_parallel: int, dtype: torch.dtype) -> Tensor:
    """Build the array that one file must hold."""

    def read(name: str) -> Tensor:
        shape = expected_shapes(checkpoint.config)[name]
        rows, columns = stored.rectangle_of(name, shape, tensor_parallel)
        tensor = checkpoint.read(name, dtype=dtype, rows=rows, columns=columns)
        return tensor.T if stored.is_transposed else tensor

    if len(stored.tensors) == 1:
        return read(stored.tensors[0])
    fused = torch.empty(stored.shape, dtype=dtype, device="cpu")
    for index, name in enumerate(stored.tensors):
        fused[:, index] = read(name)
    return fused


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
