"""Finds the weight files of a directory in Hugging Face's layout: one file or several, safetensors or PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from labkit.checkpoints.pytorch_file import PytorchFile
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.tensor_file import TensorFile
from labkit.errors import CheckpointError
from labkit.json_file import MOST_INDEX_BYTES, read_json_object

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
SAFETENSORS_INDEX, PYTORCH_INDEX = f"{SAFETENSORS}.index.json", f"{PYTORCH}.index.json"
NamedFile = SafetensorsFile | PytorchFile
_OPENERS: dict[str, Callable[[Path], NamedFile]] = {SAFETENSORS: SafetensorsFile, PYTORCH: PytorchFile}
_PARTIAL = re.compile(r".*-\d+-of-\d+\.safetensors|adapter_model\.safetensors")
"""The names of files that hold only a part of a model's weights."""
_FORMS = {SAFETENSORS: "safetensors", PYTORCH: "PyTorch"}


@dataclass(frozen=True)
class WeightFiles:
    """The tensors in the weight files of a directory.

    `tensors` maps the name of each floating-point tensor to its file, and `integers` maps the name of each tensor of integers
    or of 8-bit floating point to its file. `names` are the names of all tensors in the files.
    """

    tensors: dict[str, TensorFile]
    names: set[str]
    integers: dict[str, TensorFile]


def in_order(files: Iterable[TensorFile]) -> list[TensorFile]:
    """Every file once, ordered by name."""
    return sorted({*files}, key=lambda file: file.path)


def open_weights(folder: Path) -> WeightFiles | None:
    """Open the weights in a folder; return None if the folder has no weights.

    The function looks for the files in the same order as `transformers`. If there are none, the only safetensors file of the
    folder is opened (AutoGPTQ called it `gptq_model-4bit-128g.safetensors`, for example). Raises a `CheckpointError` that names
    the file if a file is missing or wrong.
    """
    for single, opener in _OPENERS.items():
        if (folder / single).exists():
            return _open_one(opener(folder / single))
        if (folder / f"{single}.index.json").exists():
            return _open_shards(folder, single)
    only = _only_file(folder)
    return _open_one(SafetensorsFile(only)) if only else None


def names_of_files(folder: Path) -> list[str]:
    """The weight files that a directory should have, even if some are missing; an empty list if it has no weights."""
    for single in _OPENERS:
        if (folder / single).exists():
            return [single]
        if (folder / f"{single}.index.json").exists():
            return sorted({*_weight_map(folder, single).values()})
    only = _only_file(folder)
    return [only.name] if only else []


def _only_file(folder: Path) -> Path | None:
    """The safetensors file of a folder, if there is exactly one and its name does not say that it is a part of the weights."""
    found = sorted(folder.glob("*.safetensors"))
    return found[0] if len(found) == 1 and not _PARTIAL.fullmatch(found[0].name) else None


def _open_one(file: NamedFile) -> WeightFiles:
    return WeightFiles(dict.fromkeys(file.entries, file), set(file.names), dict.fromkeys(file.integers, file))


def _open_shards(folder: Path, single: str) -> WeightFiles:
    weight_map, index = _weight_map(folder, single), f"{single}.index.json"
    files: dict[str, NamedFile] = {}
    for tensor, name in weight_map.items():
        if not (folder / name).exists():
            raise CheckpointError(f"{folder} lacks {name}, which holds {tensor} according to {index}")
        if name not in files:
            files[name] = _OPENERS[single](folder / name)
        if tensor not in files[name].names:
            raise CheckpointError(f"{folder / name} lacks {tensor}, which this file should hold according to {index}")
    tensors: dict[str, TensorFile] = {t: files[name] for t, name in weight_map.items() if t in files[name].entries}
    integers: dict[str, TensorFile] = {t: files[name] for t, name in weight_map.items() if t in files[name].integers}
    return WeightFiles(tensors, {name for file in files.values() for name in file.names}, integers)


def _weight_map(folder: Path, single: str) -> dict[str, str]:
    """The file of each tensor, as a path inside the folder; raises `CheckpointError` for an index with any other path."""
    index = folder / f"{single}.index.json"
    try:
        weight_map = read_json_object(index, MOST_INDEX_BYTES).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) and name for name in weight_map.values()):
            raise ValueError("its weight_map is not a JSON object with the name of a file for each tensor")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{index} is not a {_FORMS[single]} index: {error}") from error
    for tensor, name in weight_map.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
            raise CheckpointError(
                f"{index} says that {tensor} is in {name!r:.80}, which may lie outside {folder}; only files inside it "
                "are accepted, and nothing was read"
            )
    return weight_map
