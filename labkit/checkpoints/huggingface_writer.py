"""Writes a GPT-J in Hugging Face's layout, one tensor at a time: `config.json` and safetensors files.

`transformers` can load the result. A safetensors file consists of an 8-byte little-endian length, a JSON header, and the data
(https://github.com/huggingface/safetensors, README, "Format"). If there are several files, an index is written beside them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.output import Progress, write_tensor
from labkit.checkpoints.safetensors_file import DTYPES
from labkit.checkpoints.weight_files import SAFETENSORS_INDEX

SHARD_BYTES = 5 * 10**9
"""The default size limit of one file. A file is larger only if it holds a single tensor that is larger than this limit."""


def write_huggingface(
    checkpoint: Checkpoint,
    folder: Path,
    dtypes: dict[str, torch.dtype],
    progress: Progress,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write every tensor in its dtype into an empty folder; `config.json` is written last."""
    shards = _shards(checkpoint, dtypes, shard_bytes)
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    done, total = 0, len(dtypes)
    for file, names in zip(files, shards, strict=True):
        with (folder / file).open("wb") as out:
            out.write(_header(checkpoint, names, dtypes))
            for name in names:
                progress(done, total, name)
                write_tensor(out, checkpoint.read(name, dtype=dtypes[name]))
                done += 1
    if len(shards) > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        size = sum(_bytes(checkpoint, name, dtypes) for name in dtypes)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / SAFETENSORS_INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    stored = str(dtypes["transformer.wte.weight"]).removeprefix("torch.")
    values = checkpoint.config.to_dict() | {"dtype": stored}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", "utf-8")
    progress(total, total, "config.json")


def _bytes(checkpoint: Checkpoint, name: str, dtypes: dict[str, torch.dtype]) -> int:
    return dtypes[name].itemsize * math.prod(expected_shapes(checkpoint.config)[name])


def _shards(checkpoint: Checkpoint, dtypes: dict[str, torch.dtype], limit: int) -> list[list[str]]:
    """The names of the tensors in each file, in the order of the model."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in dtypes:
        taken = _bytes(checkpoint, name, dtypes)
        if shards[-1] and size + taken > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += taken
    return shards


def _header(checkpoint: Checkpoint, names: list[str], dtypes: dict[str, torch.dtype]) -> bytes:
    known = {dtype: name for name, dtype in DTYPES.items()}
    shapes = expected_shapes(checkpoint.config)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        end = offset + _bytes(checkpoint, name, dtypes)
        header[name] = {"dtype": known[dtypes[name]], "shape": shapes[name], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text
