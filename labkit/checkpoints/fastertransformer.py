"""Reads a GPT-J in FasterTransformer's format, one slice at a time.

The format is a folder `<TP>-gpu` of raw arrays and a `config.ini`. The module `fastertransformer_files` lists which file holds
which tensors. When a file is missing or too short, FasterTransformer only warns and then computes with wrong weights; labkit
refuses such a folder. FasterTransformer's converters always write float32, and its GPT-J loader obeys `weight_data_type` only
since release 5.1.

In FasterTransformer's own format, `config.ini` contains neither the context length of the model nor the epsilon of its norms.
`labkit convert` adds a section `[labkit]` with the context length and the epsilon. If several tokens can end a text, the
section also has `end_ids` (FasterTransformer's `end_id` is the first of them). FasterTransformer ignores the section
`[labkit]`. Without the section `[labkit]`, the context length is 2048 and the epsilon is 1e-5, as in GPT-J 6B
(FasterTransformer itself always computes with 1e-6).
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.fastertransformer_files import StoredFile, files_of
from labkit.checkpoints.pieces import Piece, read_pieces
from labkit.checkpoints.split import check_tensor_parallel
from labkit.checkpoints.tensor_file import Entry, TensorFile
from labkit.checkpoints.tokenizer_files import find_tokenizer
from labkit.config import GPT_J_6B, GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest
from labkit.tokenizer import Tokenizer

CONFIG = "config.ini"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NO_TOKEN = -1
"""The id that is written for the start or end token if the model has no such token.

FasterTransformer's own converters write `None` instead, but FasterTransformer stops with an error when it reads `None`.
"""
FOLDER = re.compile(r"([1-9]\d*)-gpu")
_CONFIG_KEYS = ("head_num", "size_per_head", "inter_size", "num_layer", "rotary_embedding", "vocab_size")


def find_folder(path: Path) -> Path:
    """The `<TP>-gpu` folder: `path` itself, or the only folder with a name of this form in `path`.

    Raises `InvalidRequest` if `path` does not contain exactly one such folder.
    """
    if (path / CONFIG).is_file():
        return path
    folders = sorted(folder for folder in path.iterdir() if is_folder(folder))
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise InvalidRequest(f"{path} must hold one FasterTransformer folder, but holds: {names}; give the path of one of them")
    return folders[0]


def is_folder(path: Path) -> bool:
    """Whether this is a FasterTransformer folder: it is named `<TP>-gpu` and has a `config.ini`."""
    return FOLDER.fullmatch(path.name) is not None and (path / CONFIG).is_file()


class FasterTransformerCheckpoint(Checkpoint):
    """The weights of a `<TP>-gpu` folder, or of a folder that contains a `<TP>-gpu` folder.

    Opening checks names and sizes; reading opens only the files that hold the wanted rows and columns. Raises a
    `CheckpointError` that names the file if a file is missing, too short or too long, and `InvalidRequest` if `config.ini`
    does not describe a GPT-J.
    """

    source_dtype: torch.dtype
    """The dtype of the weights before they were converted to this format, if that is known."""

    def __init__(self, path: Path) -> None:
        self.path = find_folder(path)
        self.name = str(path)
        values = _read_config(self.path / CONFIG)
        self.config = _config_of(self.path, values)
        self.weight_dtype = _dtype_of(self.path, values["gptj"].get("weight_data_type", "fp32"))
        self.source_dtype = DTYPES.get(values["labkit"].get("source_data_type", ""), self.weight_dtype)
        self.tensor_parallel = _tensor_parallel(self.path)
        check_tensor_parallel(self.config, self.tensor_parallel)
        self._stored = files_of(self.config, self.tensor_parallel)
        self._files = {name: self._open(name, stored) for name, stored in self._stored.items()}

    def _open(self, name: str, stored: StoredFile) -> TensorFile:
        """Open one `.bin` file, after checking that its size fits the shape of its array."""
        assert self.path is not None
        path, shape = self.path / name, stored.shape
        entry = Entry(self.weight_dtype, shape if len(shape) < 3 else (shape[0], shape[1] * shape[2]), 0)
        if not path.is_file():
            raise CheckpointError(f"{self.path} lacks {name} (shape {shape}); the checkpoint is incomplete, convert it again")
        size = path.stat().st_size
        if size != entry.byte_count:
            kind = "short" if size < entry.byte_count else "too long"
            raise CheckpointError(
                f"{path} is {kind}: it has {size} bytes, but {self.weight_dtype} numbers of shape {shape} need "
                f"{entry.byte_count}; either the file is incomplete, or {CONFIG} states another shape or weight_data_type "
                "than the files have"
            )
        return TensorFile(path, {name: entry})

    def weight_files(self) -> Sequence[TensorFile]:
        """One file for each array of the folder."""
        return list(self._files.values())

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self.weight_dtype

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        shape = expected_shapes(self.config)[name]
        pieces = [self._piece(name, shape, file) for file, stored in self._stored.items() if name in stored.tensors]
        read_pieces(pieces, rows, columns, target)

    def _piece(self, name: str, shape: tuple[int, ...], file: str) -> Piece:
        """The part of a tensor that one file holds, as a `Piece`."""
        stored = self._stored[file]
        rows, columns = stored.rectangle_of(name, shape, self.tensor_parallel)
        first_column = stored.tensors.index(name) * (rows.stop - rows.start)
        return Piece(self._files[file], file, rows, columns, 0, first_column, transposed=stored.is_transposed)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose files are in the folder or beside it; the format itself has no tokenizer."""
        assert self.path is not None
        beside = [self.path.parent] if is_folder(self.path) else []
        return find_tokenizer([self.path, *beside], self.config.vocab_size)


def _read_config(path: Path) -> Mapping[str, Mapping[str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InvalidRequest(f"cannot read {path} as FasterTransformer's config.ini: {error!r}") from error
    if "gptj" not in parser:
        sections = ", ".join(parser.sections()) or "none"
        raise InvalidRequest(f"{path} has no section [gptj], so it does not describe a GPT-J; its sections are: {sections}")
    return {name: dict(parser[name]) if name in parser else {} for name in ("gptj", "labkit")}


def _config_of(folder: Path, values: Mapping[str, Mapping[str, str]]) -> GPTJConfig:
    gptj, ours = values["gptj"], values["labkit"]
    missing = [key for key in _CONFIG_KEYS if key not in gptj]
    if missing:
        raise InvalidRequest(f"{folder / CONFIG} lacks {', '.join(missing)} in its section [gptj]; all of them are needed")
    try:
        heads, size, inner, layers, rotary, vocab = (int(gptj[key]) for key in _CONFIG_KEYS)
        context = int(ours.get("context_length", GPT_J_6B.context_length))
        epsilon = float(ours.get("layer_norm_epsilon", GPT_J_6B.layer_norm_epsilon))
        start, end = (_token(gptj.get(key, "None")) for key in ("start_id", "end_id"))
        ends = [int(token) for token in ours["end_ids"].split(",")] if "end_ids" in ours else end
    except ValueError as error:
        raise InvalidRequest(f"{folder / CONFIG} has a value that is not a number: {error}") from error
    try:
        return GPTJConfig(
            hidden_size=heads * size,
            num_layers=layers,
            num_heads=heads,
            rotary_dim=rotary,
            context_length=context,
            vocab_size=vocab,
            intermediate_size=inner,
            layer_norm_epsilon=epsilon,
            bos_token_id=start,
            eos_token_id=ends if isinstance(ends, int) or ends is None else tuple(ends),
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{folder / CONFIG}: {error}") from error


def _token(text: str) -> int | None:
    """Parse a token id; return None for a negative number and for `None`, which FasterTransformer's converters write."""
    token = None if text == "None" else int(text)
    return None if token is None or token < 0 else token


def _dtype_of(folder: Path, name: str) -> torch.dtype:
    if name not in DTYPES:
        raise InvalidRequest(f"{folder / CONFIG}: weight_data_type is {name!r}; fp32, fp16 or bf16 is accepted")
    return DTYPES[name]


def _tensor_parallel(folder: Path) -> int:
    """The tensor parallel size.

    It is the number in the folder's name or, if the folder was renamed, the number of files of a split tensor.
    """
    named = FOLDER.fullmatch(folder.resolve().name)
    if named:
        return int(named[1])
    return max(1, len(list(folder.glob("model.layers.0.attention.query_key_value.weight.*.bin"))))
