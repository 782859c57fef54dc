"""Reads a GPT-J that NVIDIA NeMo saved, from a `.nemo` file, or from the folder of an unpacked `.nemo` file.

A `.nemo` is a tar file, compressed or not, with `model_config.yaml` and Megatron's tensors in `model_weights.ckpt`. If there
are several ranks, each rank has its weights in a folder `mp_rank_TT/` or `tp_rank_TT_pp_rank_PPP/` (NVIDIA/NeMo,
`nemo/collections/nlp/parts/nlp_overrides.py`). A tar file that is not compressed is read in place. The weights in a compressed
tar file are first unpacked into a temporary folder. The module `megatron_settings` explains which NeMo models are a GPT-J.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any

from labkit.checkpoints.megatron import RankedCheckpoint
from labkit.checkpoints.megatron_ranks import Ranks
from labkit.checkpoints.torch_archive import TorchArchive
from labkit.errors import CheckpointError, InsufficientResources

CONFIG = "model_config.yaml"
QKV_VERSION = 3.0
"""NeMo stores query, key and value in the order of Megatron's checkpoint version 3."""
_WEIGHTS = re.compile(r"(?:mp_rank_(\d+)/|tp_rank_(\d+)_pp_rank_(\d+)/)?model_weights\.ckpt")
Place = tuple[Path, int, int]
"""The place of a member in a tar file: the file, the offset of the member's first byte, and the member's length."""


def is_nemo(path: Path) -> bool:
    """Whether this is a `.nemo` file or the folder of an unpacked `.nemo` file."""
    return (path.is_file() and path.suffix == ".nemo") or (path.is_dir() and (path / CONFIG).is_file())


def open_nemo(path: Path) -> RankedCheckpoint:
    """Open the checkpoint in a `.nemo` file or in the folder of an unpacked `.nemo` file.

    Raises `CheckpointError` if a member of the tar file would be unpacked outside the folder. Also raises the errors of
    `RankedCheckpoint`.
    """
    owner = None
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        places = {file.relative_to(path).as_posix(): (file, 0, file.stat().st_size) for file in files}
    else:
        places, owner = _places(path)
    if CONFIG not in places:
        raise CheckpointError(f"{path} lacks {CONFIG}, so it is not a complete NeMo checkpoint")
    ranks: Ranks = {}
    for name, (file, start, length) in sorted(places.items()):
        if found := _WEIGHTS.fullmatch(name):
            rank, stage = int(found[1] or found[2] or 0), int(found[3] or 0)
            ranks[stage, rank] = TorchArchive(file, start, length, f"{path}:{name}")
    if not ranks:
        raise CheckpointError(
            f"{path} holds no model_weights.ckpt (distributed checkpoints, whose weights are a folder, are not read)"
        )
    return RankedCheckpoint(path, _settings(path, places[CONFIG]), ranks, QKV_VERSION, owner)


def _settings(path: Path, place: Place) -> dict[str, Any]:
    import yaml

    file, start, length = place
    with file.open("rb") as opened:
        opened.seek(start)
        text = opened.read(length)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot read {CONFIG} as plain YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: {CONFIG} holds a {type(values).__name__}; a mapping of settings is needed")
    for name, value in values.items():  # ${.other} stands for another setting
        found = re.fullmatch(r"\$\{\.(\w+)\}", value) if isinstance(value, str) else None
        if found and found[1] in values:
            values[name] = values[found[1]]
    if values.get("share_embeddings_and_output_weights") is not None:
        values["untie_embeddings_and_output_weights"] = not values["share_embeddings_and_output_weights"]
    return values


def _places(path: Path) -> tuple[dict[str, Place], Any]:
    """Find the places of the settings and weights in a tar file; return these places and an owner.

    The owner is an object that keeps unpacked files as long as it exists; it is None if no file was unpacked.
    """
    try:
        with path.open("rb") as file:
            plain = not _is_gzip(file)
        if plain:
            with tarfile.open(path, "r:") as archive:
                size = path.stat().st_size
                return {name: (path, member.offset_data, member.size) for name, member in _members(path, archive, size)}, None
        stat = path.stat()
        return _unpacked(path, stat.st_mtime_ns, stat.st_size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CheckpointError(f"{path} is not a tar file (plain or compressed with gzip), or it is cut off: {error}") from error


def _is_gzip(file: IO[bytes]) -> bool:
    return file.read(2) == b"\x1f\x8b"


def _members(path: Path, archive: tarfile.TarFile, size: int | None = None) -> list[tuple[str, tarfile.TarInfo]]:
    """The files in the tar file.

    Raises `CheckpointError` if a member is neither a file nor a folder, or would be unpacked outside the target folder.
    """
    found = []
    for member in archive:
        parts = PurePosixPath(member.name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in member.name:
            raise CheckpointError(
                f"{path} has a member {member.name!r} that would be unpacked outside its folder; such a file is refused"
            )
        if not (member.isdir() or member.isreg()) or member.issparse():
            raise CheckpointError(
                f"{path} has a member {member.name!r} that is a link or a device; files and folders are accepted"
            )
        if size is not None and member.offset_data + member.size > size:
            raise CheckpointError(f"{path} is cut off inside {member.name}")
        if member.isreg():
            found.append((parts.as_posix(), member))
    return found


@lru_cache(maxsize=1)
def _unpacked(path: Path, _modified: int, _size: int) -> tuple[dict[str, Place], Any]:
    """Unpack a compressed tar file into a temporary folder. The latest folder is kept until this process ends."""
    owner = tempfile.TemporaryDirectory(prefix="labkit-nemo-")
    places: dict[str, Place] = {}
    with tarfile.open(path, "r:gz") as archive:
        for number, (name, member) in enumerate(_members(path, archive)):
            if name != CONFIG and not _WEIGHTS.fullmatch(name):
                continue
            free = shutil.disk_usage(owner.name).free
            if member.size > free:
                raise InsufficientResources(
                    f"{path}: {name} needs {member.size / 1e9:.2f} GB when it is unpacked, but {owner.name} has only "
                    f"{free / 1e9:.2f} GB free; set TMPDIR to a folder on a larger disk, or gunzip the file"
                )
            target = Path(owner.name) / str(number)
            source = archive.extractfile(member)
            assert source is not None
            with source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 2**20)
            places[name] = (target, 0, member.size)
    return places, owner
