"""Finds the checkpoint or the config of a model by the name or path that a user gives."""

from __future__ import annotations

import os
from pathlib import Path

from labkit.checkpoints.checkpoint import Checkpoint
from labkit.checkpoints.directory import DirectoryCheckpoint
from labkit.checkpoints.fetch import BUILT_IN, HUB_MODELS, fetch, find_local
from labkit.checkpoints.folder_config import read_config
from labkit.checkpoints.hub_cache import named_snapshot
from labkit.checkpoints.quantization_config import stored_quantization
from labkit.checkpoints.quantized_directory import QuantizedDirectoryCheckpoint
from labkit.checkpoints.synthetic import SyntheticCheckpoint
from labkit.checkpoints.unsupported import refuse_file, refuse_files
from labkit.config import GPT_J_6B, GPT_J_405M, GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest

SYNTHETIC = {"gpt-j-6b-synthetic": GPT_J_6B, "gpt-j-405m-synthetic": GPT_J_405M}


def model_names() -> list[str]:
    """The names of all named models.

    A model can also be given by the path of a directory or of a `config.json` file.
    """
    return [*BUILT_IN, *HUB_MODELS, *SYNTHETIC]


def config_of(name: str | Path) -> GPTJConfig:
    """The config of the model called `name`, without downloading or reading weights.

    Raises the same errors as `open_checkpoint`.
    """
    _check_name(name)
    if str(name) in SYNTHETIC:
        return SYNTHETIC[str(name)]
    if str(name) in HUB_MODELS:
        here = find_local(str(name))
        return read_config(here) if here else HUB_MODELS[str(name)].config
    path = BUILT_IN.get(str(name)) or _located(name)
    if path.is_file() and path.suffix == ".json":
        return GPTJConfig.from_file(path)
    if path.is_dir() and (path / "config.json").exists():
        return read_config(path)
    refuse_file(path)
    if (other := _open_other(path)) is not None:
        return other.config
    if path.is_dir():
        refuse_files(path)
        raise CheckpointError(
            f"{path} has no config.json, and its layout is not FasterTransformer's, Megatron-LM's or NeMo's; a "
            "directory in one of these layouts or in Hugging Face's layout is needed"
        )
    if path.is_file():
        raise InvalidRequest(
            f"{path} is a file that labkit does not read; give a directory with the weights and config.json, a config.json "
            "file or a .nemo file"
        )
    raise InvalidRequest(
        f"there is no model {str(name)!r}; give one of {', '.join(model_names())}, a directory, a config.json or a .nemo file"
    )


def is_quantized(name: str | Path) -> bool:
    """Whether this is a directory whose weights are quantized or sparse, in a format that labkit reads."""
    path = _located(name)
    return path.is_dir() and str(name) not in model_names() and stored_quantization(path) is not None


def open_checkpoint(name: str | Path, *, seed: int = 0) -> Checkpoint:
    """Open the weights called `name`: a model's name, a directory in Hugging Face's layout, or a GPT-J `config.json`.

    The formats of other systems are accepted too, if the model is a GPT-J (see `megatron_settings`): FasterTransformer's folder
    `<TP>-gpu` or its parent folder, a folder of Megatron-LM, a folder of NeMo, or a `.nemo` file.

    `gpt-j-6b` is downloaded first, with a progress bar, unless it is already on this disk. A model in the hub's own cache
    (`HF_HUB_CACHE`, `HF_HOME`) is found by its name there, `owner/model`, and is never downloaded. If only a `config.json` is
    given, the weights are synthetic, and `seed` determines them. Raises `InvalidRequest` if there is no such model, and
    `CheckpointError` for incomplete weights.
    """
    _check_name(name)
    if str(name) in BUILT_IN or str(name) in HUB_MODELS:
        return DirectoryCheckpoint(fetch(str(name), with_checksum=False).path, str(name))
    path = _located(name)
    named = str(name) in SYNTHETIC or (path / "config.json").exists()
    if not named and (other := _open_other(path)) is not None:
        return other
    config = config_of(name)
    if str(name) in SYNTHETIC or (path.is_file() and path.suffix == ".json"):
        return SyntheticCheckpoint(config, str(name), seed)
    if stored_quantization(path) is not None:
        return QuantizedDirectoryCheckpoint(path)
    return DirectoryCheckpoint(path)


def _check_name(name: object) -> None:
    if not isinstance(name, str | os.PathLike) or name == "":  # an empty path would be the current folder
        raise InvalidRequest(f"name is {name!r}; a model's name, a directory or a config.json is accepted")


def _located(name: str | Path) -> Path:
    """The path called `name`, or, if there is no such path, the folder of this model in the hub's cache."""
    path = Path(name).expanduser()
    return path if path.exists() else named_snapshot(str(name)) or path


def _open_other(path: Path) -> Checkpoint | None:
    """Open the checkpoint if it is in FasterTransformer's, Megatron-LM's or NeMo's format; otherwise return None."""
    from labkit.checkpoints import fastertransformer, megatron, nemo

    if nemo.is_nemo(path):
        return nemo.open_nemo(path)
    if not path.is_dir():
        return None
    if (path / fastertransformer.CONFIG).is_file() or any(map(fastertransformer.is_folder, path.iterdir())):
        return fastertransformer.FasterTransformerCheckpoint(path)
    return megatron.open_megatron(path) if megatron.is_megatron(path) else None
