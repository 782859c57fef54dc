"""Does the first step of quantization-aware training: quantizes all matrices with GPTQ, and trains them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from labkit.checkpoints.integer_weight import IntegerWeight
from labkit.compress.block import Block
from labkit.compress.calibration import default_windows
from labkit.compress.dense_model import DenseModel
from labkit.compress.layer import quantize_block
from labkit.compress.method import Method
from labkit.compress.qat import train
from labkit.compress.recipe import WholeModel
from labkit.compress.written_text import training_windows


def train_matrices(model: WholeModel, method: Method, state: Path) -> dict[str, IntegerWeight]:
    """Train the matrices of all blocks; return them by their full names without `.weight`.

    The state of the training is kept in the file `state`. If this file exists, the training continues from it.
    """
    dense = DenseModel(model.checkpoint)
    start = {} if state.is_file() else by_gptq(dense, method, model)
    ids = training_windows(model, method.training.continuations, method.training.steps)
    return train(dense, start, ids, method.training, model.seed, state, model.progress)


def by_gptq(dense: DenseModel, method: Method, model: WholeModel) -> dict[str, IntegerWeight]:
    """Quantize all matrices with GPTQ; the training starts from the results. GPTQ uses its default number of windows."""
    method, layers = replace(method, algorithm="gptq"), dense.config.num_layers
    found: dict[str, IntegerWeight] = {}
    hidden = [dense.embedded(each) for each in model.ids[: default_windows(dense.config, len(model.ids[0]))]]
    for layer in range(layers):
        model.progress(layer, layers + 1, f"gptq of block {layer}, where the training starts")
        made = quantize_block(dense.block(layer), method, hidden, f"block {layer}", model.checkpoint.weight_dtype)
        found |= {f"transformer.h.{layer}.{module}": matrix for module, matrix in made.matrices.items()}
        hidden = [Block(dense.config, made.dequantized()).forward(state) for state in hidden]
    return found
