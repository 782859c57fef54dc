"""Turns a model directory into a compressed model directory, one block after another."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.fingerprint import weights_digest
from labkit.checkpoints.folder_config import GENERATION_CONFIG
from labkit.checkpoints.output import TOKENIZER_FILES, Progress, check_room, copy_beside
from labkit.checkpoints.quantization_config import parsed_quantization
from labkit.checkpoints.quantized_directory import stored_matrix
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.weight_files import SAFETENSORS_INDEX, WeightFiles
from labkit.compress.block import Block
from labkit.compress.calibration import CalibrationText, default_windows, windows_of
from labkit.compress.dense import open_dense
from labkit.compress.method import Method
from labkit.compress.recipe import Recipe, WholeModel
from labkit.compress.weight_only import WeightOnly
from labkit.compress.work_folder import WorkFolder
from labkit.home import write_atomically
from labkit.torch_state import gradients_restored, undisturbed

_HEAD_TENSORS = ("transformer.ln_f.weight", "transformer.ln_f.bias", "lm_head.weight", "lm_head.bias")


@dataclass(frozen=True)
class CompressResult:
    """The folder that was written, and the sizes of all weights before and after, in bytes.

    `bits_per_weight` counts the blocks' matrices with their scales and zero points. `windows` is the number of calibration
    windows; 0 for a method without calibration.
    """

    path: Path
    bytes_before: int
    bytes_after: int
    bits_per_weight: float
    windows: int


@gradients_restored()
@undisturbed()
def compress(
    source: str | Path,
    target: str | Path,
    method: Method | Recipe,
    *,
    calibration: CalibrationText | None = None,
    windows: int | None = None,
    window: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, name: None,
) -> CompressResult:
    """Quantize the model `source` with a method, and write a directory that `labkit.load` and compressed-tensors can read.

    calibration: the text for methods that need activations, by default the built-in sample. windows: how many windows of the
    text are used. The default gives 16 tokens for each input of the widest matrix; qat uses the whole text. window: tokens
    per window, by default the model's context length. seed: chooses the windows, and the weights of a synthetic model.

    Most methods hold only one block of weights in memory at a time; a calibrated method also holds the hidden states of all
    windows. The method mixed holds the whole model in float32, and qat needs several times as much memory. Each finished block
    becomes a file in a folder beside the target. If the call is stopped, the same call continues after the finished blocks. The
    target appears only when it is complete. Raises `InvalidRequest`, `CheckpointError`, `NotAvailable`,
    `InsufficientResources`, or `LabkitError` for activations that are not finite.
    """
    place = Path(target).expanduser()
    checkpoint = open_dense(source, seed)
    recipe = WeightOnly(method) if isinstance(method, Method) else method
    recipe.check(checkpoint.config)
    text = calibration or CalibrationText.read()
    ids = _windows(checkpoint, recipe, text, windows, window, seed)
    work = WorkFolder(place, _settings(checkpoint, recipe, text, ids, seed))
    work.open()
    try:
        check_room(place, _bytes_before(checkpoint))
        recipe = recipe.prepared(WholeModel(checkpoint, ids, work.path, seed, progress))
        checkpoint = recipe.source(checkpoint)
        _Run(checkpoint, recipe, work, ids, progress).all_parts()
        _write_rest(checkpoint, recipe, work)
        work.finish()
    finally:
        work.close()
    sizes = [file.stat().st_size for file in place.glob("*.safetensors")]
    bits = recipe.bits_per_weight(checkpoint.config)
    return CompressResult(place, _bytes_before(checkpoint), sum(sizes), bits, len(ids))


class _Run:
    """Writes the parts of one model: a file for each block, and one file for the embedding, the last norm and the head."""

    def __init__(
        self, checkpoint: Checkpoint, recipe: Recipe, work: WorkFolder, ids: Sequence[Sequence[int]], progress: Progress
    ) -> None:
        self.checkpoint, self.recipe, self.work, self.progress = checkpoint, recipe, work, progress
        self.parts = checkpoint.config.num_layers + 1
        self.ids = ids

    def all_parts(self) -> None:
        """Write the parts that are not finished."""
        config = self.checkpoint.config
        hidden = self._embedded()
        for index in range(config.num_layers):
            name, prefix = part_name(index, self.parts), f"transformer.h.{index}."
            self._say(index, name, f"block {index}")
            if not self.work.has(name):
                block = Block(config, self._read(prefix))
                found = self.recipe.block_tensors(block, hidden, index, self.checkpoint.weight_dtype)
                self.work.write(name, {f"{prefix}{each}": tensor for each, tensor in found.items()})
            if hidden:  # the next block gets the states that the stored weights produce, as in the finished model
                stored = Block(config, self._stored(name, prefix))
                hidden = [stored.forward(state) for state in hidden]
        name = part_name(config.num_layers, self.parts)
        self._say(config.num_layers, name, "embedding and head")
        if not self.work.has(name):
            tensors = {each: self.checkpoint.read(each, dtype=torch.float32) for each in _HEAD_TENSORS}
            head = self.recipe.head_tensors(tensors, config.layer_norm_epsilon, hidden, self.checkpoint.weight_dtype)
            del tensors
            embedding = {"transformer.wte.weight": self.checkpoint.read("transformer.wte.weight")}
            self.work.write(name, embedding | head)
        self.progress(self.parts, self.parts, "complete")

    def _say(self, index: int, name: str, what: str) -> None:
        self.progress(index, self.parts, f"{what} is already finished" if self.work.has(name) else what)

    def _embedded(self) -> list[Tensor]:
        if not self.ids:
            return []
        embedding = self.checkpoint.read("transformer.wte.weight", dtype=torch.float32)
        return [embedding[torch.tensor(each, dtype=torch.int64, device="cpu")] for each in self.ids]

    def _read(self, prefix: str) -> dict[str, Tensor]:
        names = [name for name in self.checkpoint.tensor_names() if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.checkpoint.read(name, dtype=torch.float32) for name in names}

    def _stored(self, name: str, prefix: str) -> dict[str, Tensor]:
        """Read the tensors of a block from its file, converted to dense tensors."""
        file = SafetensorsFile(self.work.path / name)
        files = WeightFiles(dict.fromkeys(file.entries, file), file.names, dict.fromkeys(file.integers, file))
        stored = parsed_quantization(self.recipe.quantization_config())
        found: dict[str, Tensor] = {}
        for full, shape in expected_shapes(self.checkpoint.config).items():
            if not full.startswith(prefix):
                continue
            size = (shape[0], shape[-1])
            matrix = stored_matrix(self.work.path, stored, files, full, size) if len(shape) == 2 else None
            kept = file.load(full).float() if matrix is None else matrix.integers(slice(0, shape[0])).dequantize()
            found[full.removeprefix(prefix)] = kept
        return found


def part_name(index: int, parts: int) -> str:
    """The name of the weights file of part number `index` (counted from 0) of `parts`."""
    return f"model-{index + 1:05d}-of-{parts:05d}.safetensors"


def _windows(
    checkpoint: Checkpoint, recipe: Recipe, text: CalibrationText, windows: int | None, window: int | None, seed: int
) -> list[list[int]]:
    if not recipe.calibrated:
        return []
    config = checkpoint.config
    length = config.context_length if window is None else min(window, config.context_length)
    if windows is None:
        windows = len(text.text) if recipe.whole_text else default_windows(config, max(length, 1))
    return windows_of(text, checkpoint.tokenizer(), length, windows, seed)


def _settings(checkpoint: Checkpoint, recipe: Recipe, text: CalibrationText, ids: list[list[int]], seed: int) -> dict[str, Any]:
    """All settings that determine the result. Work in an unfinished folder continues only if its settings are the same."""
    found: dict[str, Any] = {
        "source": checkpoint.name,
        "source_weights_digest": weights_digest(checkpoint),
        "method": recipe.name,
        "seed": seed,
    } | recipe.settings()
    if ids:
        tokens = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        found |= {"calibration": text.name, "windows": len(ids), "window": len(ids[0]), "tokens_sha256": tokens}
    return found


def _bytes_before(checkpoint: Checkpoint) -> int:
    return sum(
        checkpoint.stored_dtype(name).itemsize * math.prod(shape) for name, shape in expected_shapes(checkpoint.config).items()
    )


def _write_rest(checkpoint: Checkpoint, recipe: Recipe, work: WorkFolder) -> None:
    """Write the index of the weight files, the tokenizer's files, and `config.json`."""
    parts = checkpoint.config.num_layers + 1
    weight_map: dict[str, str] = {}
    size = 0
    for name in (part_name(index, parts) for index in range(parts)):
        file = SafetensorsFile(work.path / name)
        weight_map |= dict.fromkeys(sorted(file.names), name)
        size += sum(entry.byte_count for entry in (*file.entries.values(), *file.integers.values()))
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    write_atomically(work.path / SAFETENSORS_INDEX, json.dumps(index, indent=2) + "\n")
    copy_beside(checkpoint.path, work.path, (*TOKENIZER_FILES, GENERATION_CONFIG))
    stored = str(checkpoint.weight_dtype).removeprefix("torch.")
    values = checkpoint.config.to_dict() | {"dtype": stored, "quantization_config": recipe.quantization_config()}
    write_atomically(work.path / "config.json", json.dumps(values, indent=2) + "\n")
