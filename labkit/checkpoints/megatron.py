"""Reads a GPT-J in Megatron-LM's layout, one slice at a time.

The module `megatron_settings` explains which Megatron models are a GPT-J.

Every tensor rank has a file `mp_rank_TT/model_optim_rng.pt`; if there are several pipeline ranks, the path is
`mp_rank_TT_PPP/model_optim_rng.pt`. The files are in a folder `iter_XXXXXXX` or `release`. The file
`latest_checkpointed_iteration.txt` beside these folders says which of them is the latest (Megatron-LM,
`megatron/checkpointing.py`). Matrices have the shape [out, in] and are split over ranks as the module `split` describes. The
size of the vocabulary is padded to a multiple of `make_vocab_size_divisible_by` times the number of tensor ranks. Layer numbers
begin at 0 in each pipeline rank. Files are read with `torch.load(weights_only=True)`, so no code in them can run.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.megatron_names import LAYER_TENSORS, QKV, QKV_PARTS, layer_and_part, qkv_rows
from labkit.checkpoints.megatron_ranks import RankArchives, Ranks
from labkit.checkpoints.megatron_settings import config_from, differences, is_half_split
from labkit.checkpoints.pieces import Piece, read_pieces
from labkit.checkpoints.split import Split, check_tensor_parallel, rectangle_of, share_shape, split_of
from labkit.checkpoints.tensor_file import TensorFile
from labkit.checkpoints.tokenizer_files import find_tokenizer
from labkit.checkpoints.torch_archive import TorchArchive
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError
from labkit.plurals import counted
from labkit.tokenizer import Tokenizer

TRACKER = "latest_checkpointed_iteration.txt"
FILE = "model_optim_rng.pt"
_RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?")


def is_megatron(path: Path) -> bool:
    """Whether a folder looks like a Megatron-LM checkpoint: it has a tracker file or rank folders."""
    return (path / TRACKER).is_file() or any(_RANK.fullmatch(folder.name) for folder in path.iterdir())


def open_megatron(path: Path) -> RankedCheckpoint:
    """Open the checkpoint in a folder of rank folders, or in the folder that a tracker file names.

    Raises `CheckpointError`, with the reason, if files are missing or too short, contain code, or hold a model that is not a
    GPT-J.
    """
    folder = _iteration_folder(path) if (path / TRACKER).is_file() else path
    ranks: Ranks = {}
    for entry in sorted(folder.iterdir()):
        if found := _RANK.fullmatch(entry.name):
            if not (entry / FILE).is_file():
                raise CheckpointError(f"{entry} lacks {FILE}; the checkpoint is incomplete")
            ranks[int(found[2] or 0), int(found[1])] = TorchArchive(entry / FILE)
    if not ranks:
        raise CheckpointError(f"{folder} holds no mp_rank_TT or mp_rank_TT_PPP folder; the checkpoint is incomplete")
    first = ranks.get((0, 0)) or next(iter(ranks.values()))
    content = first.content if isinstance(first.content, dict) else {}
    if "model" not in content:
        more = " (the checkpoint has an interleaved pipeline; save it without interleaving)" if "model0" in content else ""
        raise CheckpointError(f"{first.label} has no key 'model'; its keys are {', '.join(map(str, content))}{more}")
    if "args" not in content:
        raise CheckpointError(
            f"{first.label} has no 'args', which state the number of heads and the kind of layers; save it with a "
            "Megatron-LM that writes them (since checkpoint version 1)"
        )
    args = content["args"]
    if not isinstance(args, dict | argparse.Namespace):
        raise CheckpointError(
            f"{first.label}: args is a {type(args).__name__}; a dictionary or a Namespace of settings is needed"
        )
    version = content.get("checkpoint_version", 0)
    if not isinstance(version, int | float):
        raise CheckpointError(f"{first.label}: checkpoint_version is {version!r}; a number is needed")
    return RankedCheckpoint(path, args if isinstance(args, dict) else vars(args), ranks, version)


def _iteration_folder(path: Path) -> Path:
    word = (path / TRACKER).read_text("utf-8", "replace").strip()
    if word != "release" and not word.isdecimal():
        raise CheckpointError(f"{path / TRACKER} says {word[:40]!r}; the number of an iteration or 'release' is accepted")
    folder = path / (word if word == "release" else f"iter_{int(word):07d}")
    if not folder.is_dir():
        raise CheckpointError(f"{path} lacks the folder {folder.name} that {TRACKER} names; the checkpoint is incomplete")
    return folder


class RankedCheckpoint(Checkpoint):
    """A GPT-J whose weights are stored in one archive per rank, under Megatron's names.

    settings: Megatron's `args`, or NeMo's model configuration. version: the checkpoint version, which decides the order of
    query, key and value. owner: an object that must live as long as the checkpoint (for example, a temporary folder with
    unpacked files). Names and shapes are checked when the checkpoint is opened, and values when a tensor is read.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], ranks: Ranks, version: float, owner: Any = None) -> None:
        self.path = path if path.is_dir() else path.parent
        self.name = str(path)
        self._owner = owner
        self._settings = settings
        self._version = version
        self._archives = RankArchives(self.name, ranks, settings)
        self._refuse_other_models()
        self.config = self._config()
        check_tensor_parallel(self.config, self._archives.tensor_parallel)
        half_split = self.config.rotary_dim if is_half_split(settings) else 0
        self._half_split_dim = half_split
        self._check()
        self.weight_dtype = self._stored_dtype("transformer.wte.weight")

    @property
    def opened_from(self) -> str:
        """The path of the file or folder."""
        return self.name

    def _refuse_other_models(self) -> None:
        found = differences(self._settings, self._archives.names)
        for name in ("attention.query_key_value.bias", "attention.dense.bias"):
            if self._archives.any_nonzero(name):
                found.append(f"biases in attention ({name}), where GPT-J has none")
        if found:
            raise CheckpointError(
                f"{self.name} is a GPT, but not a GPT-J: it has {'; '.join(found)}. A GPT-J does not have these"
            )

    def _config(self) -> GPTJConfig:
        name = "embedding.word_embeddings.weight"
        rows = sum(self._archives.shape(0, rank, name)[0] for rank in range(self._archives.tensor_parallel))
        return config_from(self._settings, rows, self.name)

    def _check(self) -> None:
        if self._archives.num_layers != self.config.num_layers:
            raise CheckpointError(
                f"{self.name} has {counted(self._archives.num_layers, 'layer')} in its files, but its settings say "
                f"{self.config.num_layers}"
            )
        for name, shape in expected_shapes(self.config).items():
            pieces = self._pieces(name)
            if not pieces:
                continue
            for archive, entry in {(piece.file, piece.entry) for piece in pieces}:
                assert isinstance(archive, TorchArchive)
                found, wanted = archive.entries[entry].shape, self._rank_shape(name, shape)
                if found != wanted:
                    raise CheckpointError(f"{archive.label}: {entry} has shape {found}, but the settings require {wanted}")

    def _rank_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in which the file of one rank stores its share of this tensor."""
        if split_of(name) is Split.VOCABULARY:  # the vocabulary is padded, so that all ranks have equal shares
            return (self._archives.shape(0, 0, "embedding.word_embeddings.weight")[0], *shape[1:])
        share = share_shape(name, shape, 0, self._archives.tensor_parallel)
        return (3 * share[0], *share[1:]) if layer_and_part(name)[1] in QKV_PARTS else share

    def weight_files(self) -> Sequence[TensorFile]:
        """The archives of all ranks, stage by stage."""
        return self._archives.files

    def _stored_dtype(self, name: str) -> torch.dtype:
        pieces = self._pieces(name)
        return pieces[0].file.entries[pieces[0].entry].dtype if pieces else self._stored_dtype("lm_head.weight")

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        pieces = self._pieces(name, rows)
        if not pieces:
            target.zero_()  # if the head has no bias in the file, its bias is zero
        read_pieces(pieces, rows, columns, target)

    def _pieces(self, name: str, rows: slice | None = None) -> list[Piece]:
        """The pieces of the tensor with this Hugging Face name. Of query, key and value, only `rows` are returned."""
        shape = expected_shapes(self.config)[name]
        last = self._archives.pipeline_parallel - 1
        if name == "transformer.wte.weight":
            return self._vocabulary(0, "embedding.word_embeddings.weight", shape)
        if name.startswith("lm_head."):
            stored = name.replace("lm_head", "output_layer")
            return self._vocabulary(last, stored, shape) if self._archives.has(last, stored) else []
        if name.startswith("transformer.ln_f."):
            return [self._whole(last, name.replace("transformer.ln_f", "final_layernorm"), shape)]
        layer, part = layer_and_part(name)
        assert layer is not None
        stage, local = self._archives.stage_of(layer)
        if part in QKV_PARTS:
            which = QKV_PARTS.index(part)
            return self._of_qkv(stage, f"layers.{local}.{QKV}", which, shape, rows or slice(0, shape[0]))
        stored = f"layers.{local}.{LAYER_TENSORS[part]}"
        if split_of(name) in (Split.ROWS, Split.COLUMNS):
            return [self._share(name, shape, stage, rank, stored) for rank in range(self._archives.tensor_parallel)]
        return [self._whole(stage, stored, shape)]

    def _whole(self, stage: int, stored: str, shape: tuple[int, ...]) -> Piece:
        archive, entry = self._archives.find(stage, 0, stored)
        return Piece(archive, entry, slice(0, shape[0]))

    def _share(self, name: str, shape: tuple[int, ...], stage: int, rank: int, stored: str) -> Piece:
        """The part of a split tensor that one rank's file holds."""
        archive, entry = self._archives.find(stage, rank, stored)
        return Piece(archive, entry, *rectangle_of(name, shape, rank, self._archives.tensor_parallel))

    def _vocabulary(self, stage: int, stored: str, shape: tuple[int, ...]) -> list[Piece]:
        """The pieces of a tensor with one row per vocabulary entry, from all ranks, without the padding rows."""
        pieces, begin = [], 0
        for rank in range(self._archives.tensor_parallel):
            archive, entry = self._archives.find(stage, rank, stored)
            end = min(begin + self._archives.shape(stage, rank, stored)[0], shape[0])
            pieces.append(Piece(archive, entry, slice(begin, max(begin, end)), slice(0, shape[1]) if len(shape) == 2 else None))
            begin = max(begin, end)
        return pieces

    def _of_qkv(self, stage: int, stored: str, which: int, shape: tuple[int, ...], rows: slice) -> list[Piece]:
        """The pieces of the query, key or value: one piece for each run of consecutive rows in a rank's fused matrix."""
        local_heads = self.config.num_heads // self._archives.tensor_parallel
        places = qkv_rows(
            which, range(rows.start, rows.stop), self.config.head_dim, local_heads, self._version, self._half_split_dim
        )
        pieces: list[Piece] = []
        begin = 0
        for index in range(1, len(places) + 1):
            rank, first = places[begin]
            if index < len(places) and places[index] == (rank, first + index - begin):
                continue
            archive, entry = self._archives.find(stage, rank, stored)
            part = slice(rows.start + begin, rows.start + index)
            pieces.append(Piece(archive, entry, part, slice(0, shape[1]), first))
            begin = index
        return pieces

    def tokenizer(self) -> Tokenizer:
        """The tokenizer in Hugging Face's or GPT-2's files beside the weights. Megatron's and NeMo's own files are not read."""
        assert self.path is not None
        return find_tokenizer([self.path], self.config.vocab_size)
