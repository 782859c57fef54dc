"""Writes the folder of a checkpoint beside the target under a temporary name, and renames it when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from labkit.errors import InsufficientResources, InvalidRequest
from labkit.home import write_atomically

Progress = Callable[[int, int, str], None]
"""A function that is called with the number of finished items, the number of all items, and the name of the next item."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt"),
)
_REPLACEABLE = (
    *(
        "*.bin",
        "*.safetensors",
        "*.json",
        "*.ini",
        "*.pt",
        "*.md",
        "merges.txt",
        "SHA256SUMS",
        "latest_checkpointed_iteration.txt",
    ),
    *("mp_rank_*", "release"),
)
_WEIGHTS = ("model*.safetensors", "pytorch_model.bin", "model.wte.bin", "model_optim_rng.pt")
_SPARE_BYTES = 64 * 2**20


def check_target(target: Path, *, force: bool) -> None:
    """Raise `InvalidRequest` if `target` exists and is not empty. With `force`, a `target` with a checkpoint is accepted."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InvalidRequest(f"{target} exists and is not a folder; give another target")
    if not target.exists() or not any(target.iterdir()):
        return
    if not force:
        raise InvalidRequest(f"{target} exists; give another target, or --force to replace it")
    inside = [path.relative_to(target) for path in target.rglob("*")]
    foreign = [path for path in inside if not any(fnmatch(path.name, form) for form in _REPLACEABLE)]
    if foreign or not any(fnmatch(path.name, form) for path in inside for form in _WEIGHTS):
        what = f"{foreign[0]}, which belongs to no checkpoint" if foreign else "no weights"
        raise InvalidRequest(f"{target} holds {what}; --force only replaces a checkpoint, so empty the folder yourself")


@contextmanager
def new_folder(target: Path, *, needed_bytes: int, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `target` for the `with` block to fill.

    If the block succeeds, this folder replaces `target`; otherwise this folder is removed.

    An existing checkpoint stays complete until the new checkpoint is complete. Raises the errors of `check_target`, and
    `InsufficientResources` if the disk has less than `needed_bytes` free.
    """
    check_target(target, force=force)
    parent = target.absolute().parent
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    try:
        check_room(target, needed_bytes)
        staging = Path(tempfile.mkdtemp(dir=parent, prefix=f".{target.name}.part-"))
        try:
            staging.chmod(0o755)
            yield staging
            _flush(staging)
            _move(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        for folder in made:
            with suppress(OSError):  # another process has put something into the folder
                folder.rmdir()
        raise


def check_room(target: Path, needed_bytes: int) -> None:
    """Raise `InsufficientResources` if the disk of `target` has less than `needed_bytes` free."""
    parent = target.absolute().parent
    free = shutil.disk_usage(parent).free
    if free < needed_bytes + _SPARE_BYTES:
        raise InsufficientResources(
            f"{target} needs {needed_bytes / 1e9:.2f} GB of disk, but {parent} has only {free / 1e9:.2f} GB free; free some "
            "space, or give another target"
        )


def _flush(folder: Path) -> None:
    """Force every file to the disk before the folder gets its final name."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move(staging: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.replace(staging, target)
        return
    aside = Path(tempfile.mkdtemp(dir=target.absolute().parent, prefix=f".{target.name}.old-"))
    os.replace(target, aside)
    try:
        os.replace(staging, target)
    except BaseException:
        os.replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_tensor(file: IO[bytes], tensor: Tensor) -> None:
    """Append the values of a tensor in row-major order and in this machine's byte order (little-endian)."""
    file.write(memoryview(tensor.contiguous().view(torch.uint8).numpy().reshape(-1)))  # type: ignore[arg-type]


def copy_beside(source: Path | None, folder: Path, names: Sequence[str] = TOKENIZER_FILES) -> None:
    """Copy the files `names` (default: the tokenizer's files) from `source` to `folder`.

    Files that `source` does not have are left out, and files that `folder` already has are kept.
    """
    for name in names:
        if source is not None and (source / name).is_file() and not (folder / name).exists():
            write_atomically(folder / name, (source / name).read_bytes())
