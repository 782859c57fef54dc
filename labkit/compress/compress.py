"""Turns a model directory into a compressed model directory, one block after the other."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.folder_config import GENERATION_CONFIG
from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.checkpoints.output import TOKENIZER_FILES, Progress, check_room, copy_beside
from labkit.checkpoints.safetensors_file import SafetensorsFile
from labkit.checkpoints.stored_matrix import PackQuantized
from labkit.checkpoints.weight_files import SAFETENSORS_INDEX, WeightFiles
from labkit.compress.block import MATRICES, Block
from labkit.compress.calibration import CalibrationText, windows_of
from labkit.compress.choose_bits import SENSITIVITY, with_chosen_bits
from labkit.compress.dense import open_dense
from labkit.compress.dense_model import DenseModel
from labkit.compress.layer import quantize_block, quantize_head, with_dense_tensors
from labkit.compress.method import HEAD, Method
from labkit.compress.pack_quantized import packed_tensors, quantization_config
from labkit.compress.qat import train
from labkit.compress.work_folder import WorkFolder
from labkit.home import write_atomically
from labkit.torch_state import gradients_restored, undisturbed

TRAINING = "training.safetensors"
"""The state of the training of a method that trains; it is removed when all parts are written."""
TOKENS_PER_INPUT = 16
"""By default there are this many calibration tokens for each input of the widest matrix (fc_out)."""
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
    method: Method,
    *,
    calibration: CalibrationText | None = None,
    windows: int | None = None,
    window: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total, name: None,
) -> CompressResult:
    """Quantize the weights called `source` by a method, and write a directory that `labkit.load` and compressed-tensors read.

    calibration: the text for methods that need activations, by default the built-in sample. windows: how many windows of the
    text are used, by default 16 tokens for each input of the widest matrix, and for qat the whole text. window: tokens
    per window, by default the model's context. seed: chooses the windows, and the weights of a synthetic model.

    Only one block of weights is in memory at a time, and for a calibrated method the hidden states of all windows. Each
    finished block is a file in a folder beside the target; if the call is stopped, the same call goes on with them. The target
    appears when it is complete. Raises `InvalidRequest`, `CheckpointError`, `NotAvailable`, `InsufficientResources`, or
    `LabkitError` for activations that are not finite.
    """
    place = Path(target).expanduser()
    checkpoint = open_dense(source, seed)
    method.check(checkpoint.config)
    text = calibration or CalibrationText.read()
    ids = _windows(checkpoint, method, text, windows, window, seed)
    work = WorkFolder(place, _settings(checkpoint, method, text, ids, seed))
    work.open()
    try:
        check_room(place, _bytes_before(checkpoint))
        method = with_chosen_bits(checkpoint, method, ids, work.path / SENSITIVITY, progress)
        _Run(checkpoint, method, work, ids, seed, progress).all_parts()
        _write_rest(checkpoint, method, work)
        work.finish()
    finally:
        work.drop_if_empty()
    sizes = [file.stat().st_size for file in place.glob("*.safetensors")]
    bits = method.bits_per_weight(checkpoint.config)
    return CompressResult(place, _bytes_before(checkpoint), sum(sizes), bits, len(ids))


class _Run:
    """The parts of one model: a file for each block, and one for the embedding, the last norm and the head."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        method: Method,
        work: WorkFolder,
        ids: Sequence[Sequence[int]],
        seed: int,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.method, self.work, self.progress = checkpoint, method, work, progress
        self.parts = checkpoint.config.num_layers + 1
        self.ids, self.seed = ids, seed

    def all_parts(self) -> None:
        """Make the parts that are not finished."""
        config = self.checkpoint.config
        trained = self._trained()
        hidden = self._embedded()
        for index in range(config.num_layers):
            name, prefix = part_name(index, self.parts), f"transformer.h.{index}."
            self._say(index, name, f"block {index}")
            if not self.work.has(name):
                block, dtype = Block(config, self._read(prefix)), self.checkpoint.weight_dtype
                if trained:
                    matrices = {module: trained[f"{prefix}{module}"] for module in MATRICES}
                    found = with_dense_tensors(block, matrices, dtype)
                else:
                    schemes = {module: self.method.scheme_of(f"{prefix}{module}") for module in MATRICES}
                    found = quantize_block(block, self.method, hidden, f"block {index}", dtype, schemes)
                self.work.write(name, packed_tensors(found, prefix))
            if hidden:  # the states go through the weights that were written, as they will when the model runs
                stored = Block(config, self._stored(name, prefix))
                hidden = [stored.forward(state) for state in hidden]
        name = part_name(config.num_layers, self.parts)
        self._say(config.num_layers, name, "embedding and head")
        if not self.work.has(name):
            tensors = {each: self.checkpoint.read(each, dtype=torch.float32) for each in _HEAD_TENSORS}
            head = quantize_head(tensors, self.method, config.layer_norm_epsilon, hidden, self.checkpoint.weight_dtype)
            embedding = {"transformer.wte.weight": self.checkpoint.read("transformer.wte.weight")}
            self.work.write(name, embedding | packed_tensors(head, ""))
        (self.work.path / TRAINING).unlink(missing_ok=True)
        self.progress(self.parts, self.parts, "complete")

    def _trained(self) -> dict[str, IntegerWeight]:
        """The matrices of all blocks if the method trains them."""
        if self.method.algorithm != "qat":
            return {}
        state = self.work.path / TRAINING
        start = {} if state.is_file() else self._by_gptq()
        model, training = DenseModel(self.checkpoint), self.method.training
        return train(model, start, self.ids, training, self.seed, state, self.progress)

    def _by_gptq(self) -> dict[str, IntegerWeight]:
        """All matrices quantized by GPTQ, where a training starts."""
        method, config = replace(self.method, algorithm="gptq"), self.checkpoint.config
        found: dict[str, IntegerWeight] = {}
        hidden = self._embedded()[: -(-TOKENS_PER_INPUT * config.intermediate_size // len(self.ids[0]))]
        for index in range(config.num_layers):
            self.progress(index, self.parts, f"gptq of block {index}, where the training starts")
            block = Block(config, self._read(f"transformer.h.{index}."))
            made = quantize_block(block, method, hidden, f"block {index}", self.checkpoint.weight_dtype)
            found |= {f"transformer.h.{index}.{module}": matrix for module, matrix in made.matrices.items()}
            hidden = [Block(config, made.dequantized()).forward(state) for state in hidden]
        return found

    def _say(self, index: int, name: str, what: str) -> None:
        self.progress(index, self.parts, f"{what} is finished already" if self.work.has(name) else what)

    def _embedded(self) -> list[Tensor]:
        if not self.ids:
            return []
        embedding = self.checkpoint.read("transformer.wte.weight", dtype=torch.float32)
        return [embedding[torch.tensor(each, dtype=torch.int64, device="cpu")] for each in self.ids]

    def _read(self, prefix: str) -> dict[str, Tensor]:
        names = [name for name in self.checkpoint.tensor_names() if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.checkpoint.read(name, dtype=torch.float32) for name in names}

    def _stored(self, name: str, prefix: str) -> dict[str, Tensor]:
        """The tensors of a block as its file holds them, dense."""
        file = SafetensorsFile(self.work.path / name)
        files = WeightFiles(dict.fromkeys(file.entries, file), file.names, dict.fromkeys(file.integers, file))
        shapes, found = expected_shapes(self.checkpoint.config), {}
        for module in MATRICES:
            rows, columns = shapes[f"{prefix}{module}.weight"]
            matrix = PackQuantized(
                self.work.path, files, f"{prefix}{module}", (rows, columns), [self.method.scheme_of(f"{prefix}{module}")]
            )
            found[f"{module}.weight"] = matrix.integers(slice(0, rows)).dequantize()
        dense = [each for each in file.entries if each.startswith(prefix) and not each.endswith("weight_scale")]
        return found | {each.removeprefix(prefix): file.load(each).float() for each in dense}


def part_name(index: int, parts: int) -> str:
    """The file of a part."""
    return f"model-{index + 1:05d}-of-{parts:05d}.safetensors"


def _windows(
    checkpoint: Checkpoint, method: Method, text: CalibrationText, windows: int | None, window: int | None, seed: int
) -> list[list[int]]:
    if not method.calibrated:
        return []
    config = checkpoint.config
    length = min(window or config.context_length, config.context_length)
    if windows is None and method.algorithm == "qat":  # a training sees more text than a calibration
        return windows_of(text, checkpoint.tokenizer(), length, len(text.text), seed)
    count = windows if windows is not None else -(-TOKENS_PER_INPUT * config.intermediate_size // length)
    return windows_of(text, checkpoint.tokenizer(), length, count, seed)


def _settings(checkpoint: Checkpoint, method: Method, text: CalibrationText, ids: list[list[int]], seed: int) -> dict[str, Any]:
    """What determines the result; an unfinished folder is only used again if all of it is the same."""
    norms = [checkpoint.read(name).float() for name in ("transformer.h.0.ln_1.weight", "transformer.ln_f.weight")]
    weights = hashlib.sha256(b"".join(bytes(norm.view(torch.uint8).numpy()) for norm in norms))  # type: ignore[arg-type]
    found: dict[str, Any] = {
        "source": checkpoint.name,
        "source_norms_sha256": weights.hexdigest(),
        "method": method.name,
        "blocks": str(method.scheme),
        "head": str(HEAD),
        "seed": seed,
    }
    if method.algorithm == "gptq":
        found |= {"damping": method.damping, "activation_order": method.activation_order}
    if method.average_bits is not None:
        found |= {"blocks": f"mixed, in groups of {method.scheme.group_size}", "average_bits": method.average_bits}
    if method.algorithm == "qat":
        found |= {"training": asdict(method.training)}
    if ids:
        tokens = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        found |= {"calibration": text.name, "windows": len(ids), "window": len(ids[0]), "tokens_sha256": tokens}
    return found


def _bytes_before(checkpoint: Checkpoint) -> int:
    return sum(
        checkpoint.stored_dtype(name).itemsize * math.prod(shape) for name, shape in expected_shapes(checkpoint.config).items()
    )


def _write_rest(checkpoint: Checkpoint, method: Method, work: WorkFolder) -> None:
    """The index of the files, the tokenizer's files, and `config.json`."""
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
    values = checkpoint.config.to_dict() | {"dtype": stored, "quantization_config": quantization_config(method)}
    write_atomically(work.path / "config.json", json.dumps(values, indent=2) + "\n")
