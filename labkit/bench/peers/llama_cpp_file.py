"""Keeps models as GGUF files in labkit's home folder. If a file is missing or incomplete, it is made again."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

import psutil
import torch

from labkit.bench.peers.conversion_space import check_disk, checkpoint_digest
from labkit.bench.peers.llama_cpp_library import quantize_file
from labkit.bench.peers.llama_cpp_model import byte_size, tensors_of, write_gguf
from labkit.checkpoints import Checkpoint
from labkit.home import home
from labkit.precision import precision_name

LAYOUT = 1
"""A version number that is part of the digest in every file's name.

Increase this number when a change of `llama_cpp_model` makes it write different files, so that old files are not used.
"""

Q4_K_M = "Q4_K_M"
Q4_K_M_BITS = 5.5
"""The bits per weight of a file in Q4_K_M, with a margin. Most matrices have 4.5 bits per weight, all others 6.6 or more."""


def gguf_file(checkpoint: Checkpoint, precision: str) -> Path:
    """Return the file with the weights of `checkpoint` in a precision of the benchmark, or in `Q4_K_M`.

    If the file does not exist yet, it is made. Raises `InsufficientResources` when there is too little disk space.
    """
    folder = home() / "peers" / "llama.cpp"
    folder.mkdir(parents=True, exist_ok=True)
    versions = (metadata.version(package) for package in ("gguf", "llama_cpp_python"))
    path = folder / f"{Path(checkpoint.name).name}-{precision}-{checkpoint_digest(checkpoint, LAYOUT, *versions)}.gguf"
    if is_complete(path):
        return path
    path.unlink(missing_ok=True)
    _remove_abandoned(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"part-{os.getpid()}-") as part:
        made = Path(part) / "model.gguf"
        if precision == Q4_K_M:
            _write_q4_k_m(checkpoint, made)
        else:
            check_disk(checkpoint, _size(checkpoint, precision), folder, "LABKIT_HOME")
            write_gguf(checkpoint, made, precision)
        os.replace(made, path)
    return path


def _remove_abandoned(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed. Each process has a folder with its process id in the name."""
    for part in folder.glob("part-*-*"):
        if not psutil.pid_exists(int(part.name.split("-")[1])):
            shutil.rmtree(part, ignore_errors=True)


def is_complete(path: Path) -> bool:
    """Whether the file exists and holds all the data that its header lists."""
    import gguf

    try:
        tensors = gguf.GGUFReader(path).tensors
    except (OSError, ValueError, IndexError, KeyError):
        return False
    return bool(tensors) and all(tensor.data.nbytes == tensor.n_bytes for tensor in tensors)


def bytes_read_per_step(path: Path) -> int:
    """The number of bytes of weights that a decode step of one sequence reads: one embedding row, and all other tensors."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    return sum(int(each.data[0].nbytes if each.name == "token_embd.weight" else each.n_bytes) for each in tensors)


def _write_q4_k_m(checkpoint: Checkpoint, path: Path) -> None:
    """Write a file with the weights in their stored dtype, and let llama.cpp's own quantizer make the Q4_K_M file from it.

    Query, key and value are three separate matrices, because the quantizer gives the value matrix more bits.
    """
    wide = path.with_name("wide.gguf")
    stored = precision_name(checkpoint.weight_dtype)
    needed = _size(checkpoint, stored) + int(checkpoint.config.parameter_count * Q4_K_M_BITS / 8)
    check_disk(checkpoint, needed, path.parent, "LABKIT_HOME")
    write_gguf(checkpoint, wide, stored, fused=False)
    quantize_file(wide, path, torch.get_num_threads())


def _size(checkpoint: Checkpoint, precision: str) -> int:
    return sum(map(byte_size, tensors_of(checkpoint.config, precision, True)))
