"""Prunes gptj-tiny in memory with a learner's mask, and saves a learner's models as directories that the engine runs."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.folder_config import GENERATION_CONFIG
from labkit.checkpoints.output import TOKENIZER_FILES, copy_beside
from labkit.checkpoints.safetensors_writer import write_safetensors
from labkit.compress.block import MATRICES
from labkit.compress.dense_model import DenseModel
from labkit.compress.student import Student, student_config
from labkit.errors import InvalidRequest
from labkit.exercises.lab05 import tensors
from labkit.home import write_atomically
from labkit.measure import progress_bar

MODEL = tensors.MODEL
WEIGHTS = "model.safetensors"
PASSAGES = 4
"""The number of passages of the calibration text, each with 512 tokens, whose inputs are available for choosing a mask."""

_folders: list[tempfile.TemporaryDirectory[str]] = []
"""The folders of this process's models; they are removed when the process ends."""


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of gptj-tiny, and its masks by tensor name; True marks a weight that is kept."""

    model: Student
    masks: dict[str, Tensor]


@functools.cache
def teacher() -> DenseModel:
    """The dense model in float32. Its tensors are shared by all callers, so no caller may change them."""
    return DenseModel(tensors.checkpoint())


def prune(mask_of: Callable[[Tensor, Tensor], Any]) -> Pruned:
    """Prune the matrices of all blocks with a learner's `mask_of(weight, inputs)`.

    `inputs` `[2048, in]` are the matrix's inputs in the dense model, for the first passages of the calibration text. Raises
    `InvalidRequest` if a mask is not a boolean tensor of the weight's shape that keeps two of every four weights.
    """
    dense, masks = teacher(), {}
    found = {name: tensor.clone() for name, tensor in dense.tensors.items()}
    bar, total = progress_bar("matrices to prune"), dense.config.num_layers * len(MATRICES)
    for layer in range(dense.config.num_layers):
        for matrix in MATRICES:
            name = f"transformer.h.{layer}.{matrix}.weight"
            masks[name] = _checked(mask_of(found[name].clone(), inputs(layer)[matrix].clone()), found[name], name)
            found[name] = found[name] * masks[name]
            bar(len(masks), total)
    return Pruned(Student(dense.config, found), masks)


@functools.cache
def inputs(layer: int) -> dict[str, Tensor]:
    """The inputs of each matrix of a block of the dense model, for the tokens of `PASSAGES` passages."""
    found = [tensors.inputs_of(tensors.block(layer), hidden) for hidden in _hidden(layer)]
    return {matrix: torch.cat([each[matrix] for each in found]) for matrix in MATRICES}


@functools.cache
def _hidden(layer: int) -> list[Tensor]:
    """The hidden states that enter a block, for each passage."""
    if layer == 0:
        return [tensors.embedded(passage) for passage in tensors.passages(PASSAGES)]
    return [tensors.block(layer - 1).forward(hidden) for hidden in _hidden(layer - 1)]


def _checked(mask: Tensor, weight: Tensor, name: str) -> Tensor:
    fits = isinstance(mask, Tensor) and mask.shape == weight.shape and mask.dtype == torch.bool
    if not fits or not bool((mask.reshape(-1, 4).sum(1) == 2).all()):
        raise InvalidRequest(
            f"the mask of {name} must be boolean, {list(weight.shape)}, with two of every four True; check it with "
            "check(two_four_mask)"
        )
    return mask.detach().cpu()


def student(first_student: Callable[..., Any], layers: int) -> Student:
    """A student with the tensors of a learner's `first_student`. Raises `InvalidRequest` if they do not fit `layers` layers."""
    config = student_config(teacher().config, layers)
    found = first_student(dict(teacher().tensors), teacher().config.num_layers, layers)
    dense = teacher().tensors
    wanted = {name for name in dense if not name.startswith("transformer.h.") or int(name.split(".")[2]) < layers}
    if not isinstance(found, dict) or set(found) != wanted or any(found[name].shape != dense[name].shape for name in wanted):
        raise InvalidRequest(
            f"first_student must return the {len(wanted)} tensors of a model with {layers} layers; check it with "
            "check(first_student)"
        )
    return Student(config, {name: found[name].detach().clone() for name in dense if name in wanted})


def kept_copy(model: DenseModel) -> Student:
    """A copy of a model. Later training of the model does not change the copy."""
    return Student(model.config, {name: tensor.detach().clone() for name, tensor in model.tensors.items()})


def save(model: DenseModel, name: str) -> Path:
    """Write a model in the teacher's dtype, with its tokenizer. Returns a new directory that `labkit.load` reads."""
    place = new_folder(name)
    place.mkdir()
    dtype = tensors.checkpoint().weight_dtype
    write_safetensors(place / WEIGHTS, {each: tensor.detach().to(dtype).contiguous() for each, tensor in model.tensors.items()})
    copy_beside(tensors.checkpoint().path, place, (*TOKENIZER_FILES, GENERATION_CONFIG))
    values = model.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    write_atomically(place / "config.json", json.dumps(values, indent=2) + "\n")
    return place


def new_folder(name: str) -> Path:
    """The path for a new model directory. The directory does not exist yet, and is removed when the process ends."""
    _folders.append(tempfile.TemporaryDirectory(prefix="labkit-lab06-"))
    return Path(_folders[-1].name) / name
