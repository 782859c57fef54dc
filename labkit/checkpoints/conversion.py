"""Converts a checkpoint from any format that labkit reads to any format that labkit writes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from labkit.checkpoints.checkpoint import Checkpoint
from labkit.checkpoints.fastertransformer import FasterTransformerCheckpoint
from labkit.checkpoints.fastertransformer_writer import write_fastertransformer
from labkit.checkpoints.folder_config import GENERATION_CONFIG
from labkit.checkpoints.huggingface_writer import SHARD_BYTES, write_huggingface
from labkit.checkpoints.megatron_writer import padded_vocab, write_megatron
from labkit.checkpoints.output import TOKENIZER_FILES, Progress, check_target, copy_beside, new_folder
from labkit.checkpoints.resolve import config_of, open_checkpoint
from labkit.checkpoints.split import check_pipeline_parallel, check_tensor_parallel
from labkit.errors import InvalidRequest

FORMATS = ("hf", "fastertransformer", "megatron")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ConvertResult:
    """The folder that was written (`labkit.load` can open it), the number of its files, and their total size in bytes."""

    path: Path
    files: int
    bytes: int


def _quiet(done: int, total: int, name: str) -> None:
    pass


def convert(
    source: str | Path,
    target: str | Path,
    form: str,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    precision: str | None = None,
    force: bool = False,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = _quiet,
) -> ConvertResult:
    """Write the weights called `source` to `target` in the format "hf", "fastertransformer" or "megatron".

    Files in FasterTransformer's format are written to the folder `<tensor_parallel>-gpu` in `target`. precision: fp32, fp16 or
    bf16. By default the precision of the source is kept, but FasterTransformer's files are written in fp32, because
    FasterTransformer's own converters write fp32 and its loader expects fp32. If such files are converted again, the original
    precision is restored. shard_bytes: the largest size of a safetensors file. force: replace a checkpoint that exists at the
    target.

    All arguments are checked before anything is written, and the new folder gets its final name only when it is complete.
    Raises `InvalidRequest`, `CheckpointError` or `InsufficientResources`.
    """
    if not isinstance(target, str | os.PathLike):
        raise InvalidRequest(f"target is {target!r}; the path of a folder is accepted")
    whole = {"tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel, "shard_bytes": shard_bytes}
    for name, value in whole.items():
        if not isinstance(value, int) or value < 1:
            raise InvalidRequest(f"{name} is {value!r}; a whole number of at least 1 is accepted")
    dtype = _check_request(form, tensor_parallel, pipeline_parallel, precision)
    config = config_of(source)
    check_tensor_parallel(config, tensor_parallel)
    check_pipeline_parallel(config, pipeline_parallel)
    place = Path(target).expanduser() / f"{tensor_parallel}-gpu" if form == "fastertransformer" else Path(target).expanduser()
    check_target(place, force=force)
    checkpoint = open_checkpoint(source, seed=seed)
    _check_apart(checkpoint, place)
    dtypes = _dtypes(checkpoint, dtype)
    needed = _needed_bytes(checkpoint, form, dtype, dtypes, tensor_parallel)
    with new_folder(place, needed_bytes=needed, force=force) as folder:
        if form == "hf":
            write_huggingface(checkpoint, folder, dtypes, progress, shard_bytes)
            copy_beside(checkpoint.path, folder, (GENERATION_CONFIG,))
        elif form == "megatron":
            write_megatron(checkpoint, folder, tensor_parallel, pipeline_parallel, _the_one(dtypes), progress)
        else:
            source_dtype = _the_one(_dtypes(checkpoint, None)) or torch.float32
            write_fastertransformer(checkpoint, folder, tensor_parallel, dtype or torch.float32, source_dtype, progress)
        if form != "fastertransformer":
            copy_beside(_tokenizer_folder(checkpoint), folder)
    if form == "fastertransformer":  # the format has no tokenizer files: copy them beside it, where labkit looks for them
        copy_beside(_tokenizer_folder(checkpoint), place.parent)
    files = [file for file in place.rglob("*") if file.is_file()]
    return ConvertResult(place, len(files), sum(file.stat().st_size for file in files))


def _check_request(form: str, tensor_parallel: int, pipeline_parallel: int, precision: str | None) -> torch.dtype | None:
    if form not in FORMATS:
        raise InvalidRequest(f"format is {form!r}; {', '.join(FORMATS[:-1])} or {FORMATS[-1]} is accepted")
    if precision is not None and precision not in PRECISIONS:
        raise InvalidRequest(f"precision is {precision!r}; checkpoints are written in fp32, fp16 or bf16")
    if form == "hf" and (tensor_parallel, pipeline_parallel) != (1, 1):
        raise InvalidRequest(
            "files in format hf are not split over ranks: any number of ranks can read them; leave the parallel sizes at 1"
        )
    if form == "fastertransformer" and pipeline_parallel != 1:
        raise InvalidRequest(
            f"pipeline parallel size is {pipeline_parallel}; FasterTransformer's files do not depend on it, so leave it at 1"
        )
    return None if precision is None else PRECISIONS[precision]


def _check_apart(checkpoint: Checkpoint, place: Path) -> None:
    """Raise `InvalidRequest` if writing the target would replace the source."""
    if checkpoint.path is not None:
        source, there = checkpoint.path.resolve(), place.resolve()
        if source == there or there in source.parents:
            raise InvalidRequest(f"writing {place} would replace the source {checkpoint.path}; give another target")


def _dtypes(checkpoint: Checkpoint, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
    """The dtype in which each tensor is written: `dtype` if it is given, otherwise the tensor's own dtype in the source.

    If FasterTransformer files state the dtype that the weights had before they were converted to fp32, that dtype is used.
    """
    if dtype is None and isinstance(checkpoint, FasterTransformerCheckpoint):
        dtype = checkpoint.source_dtype
    return {name: dtype or checkpoint.stored_dtype(name) for name in checkpoint.tensor_names()}


def _the_one(dtypes: dict[str, torch.dtype]) -> torch.dtype | None:
    """The dtype that all tensors have, or None if their dtypes differ."""
    kinds = set(dtypes.values())
    return kinds.pop() if len(kinds) == 1 else None


def _needed_bytes(
    checkpoint: Checkpoint, form: str, dtype: torch.dtype | None, dtypes: dict[str, torch.dtype], tensor_parallel: int
) -> int:
    size = dtype or (torch.float32 if form == "fastertransformer" else max(dtypes.values(), key=lambda kind: kind.itemsize))
    config = checkpoint.config
    padding = padded_vocab(config, tensor_parallel) - config.vocab_size if form == "megatron" else 0
    return int(size.itemsize * (config.parameter_count + padding * (2 * config.hidden_size + 1)))


def _tokenizer_folder(checkpoint: Checkpoint) -> Path | None:
    path = checkpoint.path
    if path is not None and re.fullmatch(r"\d+-gpu", path.name) and not any((path / n).exists() for n in TOKENIZER_FILES):
        return path.parent
    return path
