"""Measures which matrices suffer most from quantization: the damage when only one matrix, or only one block, is quantized.

Z. Dong et al.: HAWQ (2019, https://arxiv.org/abs/1905.03696) choose the bits of each layer from an estimate of this damage.
Here the damage is measured on a few windows of the calibration text: as the Kullback-Leibler divergence from the dense model's
predictions, and as the increase of the loss, both in nats per token. The divergence has far less noise, because it does not
depend on the next tokens of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme
from labkit.checkpoints.output import Progress
from labkit.compress.block import FIRST, MATRICES, Block
from labkit.compress.dense_model import DenseModel
from labkit.compress.input_statistics import InputStatistics, statistics_of
from labkit.torch_state import gradients_restored, undisturbed

WINDOWS = 4
"""How many windows of the text are used by default. More windows take longer and rank the matrices in the same order."""
BITS = (4, 3, 2)
"""The numbers of bits that are tried. With more bits, the damage is small, and each further bit divides it by four."""

Quantize = Callable[[Tensor, Tensor, IntegerScheme], Tensor]
"""A function that takes a matrix `[out, in]`, its Hessian `[in, in]` and a scheme, and returns the quantized values."""


@dataclass(frozen=True)
class Damage:
    """The damage when only `module` is quantized to `bits`; `module` is a matrix or a block (`transformer.h.3`).

    `divergence` and `loss_increase` are in nats per token. `weights` is the number of weights in the module.
    """

    module: str
    bits: int
    weights: int
    divergence: float
    loss_increase: float


@gradients_restored()
@undisturbed()
def measure_sensitivity(
    model: DenseModel,
    ids: Sequence[Sequence[int]],
    group_size: int | None,
    quantize: Quantize,
    *,
    bits: Sequence[int] = BITS,
    known: Sequence[Damage] = (),
    after_block: Callable[[list[Damage]], None] = lambda damages: None,
    progress: Progress = lambda done, total, name: None,
) -> list[Damage]:
    """Measure the damage of every matrix and every block at every number of bits, on the windows `ids` of tokens.

    After each block, `after_block` is called with all damages measured so far. To continue a stopped measurement, pass these
    damages as `known`.
    """
    found = list(known)
    layers = model.config.num_layers
    states = [model.embedded(each) for each in ids]
    reference = _Reference(model, ids)
    for layer in range(layers):
        progress(layer, layers, f"sensitivity of block {layer}")
        block, prefix = model.block(layer), f"transformer.h.{layer}."
        if any(each.module == prefix.rstrip(".") for each in known):
            states = [block.forward(state) for state in states]
            continue
        hessians = _hessians(block, states, f"block {layer}")
        for each in bits:
            scheme = IntegerScheme(each, group_size)
            made = {name: quantize(block.tensors[f"{name}.weight"], hessians[name], scheme) for name in MATRICES}
            tensors = {f"{prefix}{name}.weight": matrix for name, matrix in made.items()}
            for name, matrix in made.items():
                one = {f"{prefix}{name}.weight": matrix}
                found.append(Damage(f"{prefix}{name}", each, matrix.numel(), *reference.damage(layer, states, one)))
            weights = sum(matrix.numel() for matrix in made.values())
            found.append(Damage(prefix.rstrip("."), each, weights, *reference.damage(layer, states, tensors)))
        after_block(found)
        states = [block.forward(state) for state in states]
    progress(layers, layers, "sensitivity is complete")
    return found


def matrices_only(damages: Iterable[Damage]) -> list[Damage]:
    """The entries of single matrices, without the entries of whole blocks."""
    return [each for each in damages if each.module.endswith(MATRICES)]


class _Reference:
    """Compares a changed model's predictions for the windows with the dense model's predictions."""

    def __init__(self, model: DenseModel, ids: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.targets = [torch.tensor(each[1:], dtype=torch.int64, device="cpu")[:, None] for each in ids]
        self.dense = [torch.log_softmax(model.logits(each), -1) for each in ids]

    def damage(self, layer: int, states: Sequence[Tensor], replaced: dict[str, Tensor]) -> tuple[float, float]:
        """The divergence and the loss increase when some tensors of block `layer` are replaced.

        `states` are the inputs of this block.
        """
        divergence, loss, tokens = 0.0, 0.0, 0
        for state, dense, targets in zip(states, self.dense, self.targets, strict=True):
            hidden = state
            for place in range(layer, self.model.config.num_layers):
                hidden = self.model.block(place, replaced).forward(hidden)
            found = torch.log_softmax(self.model.head(hidden), -1)
            divergence += float((dense.exp() * (dense - found)).sum(dtype=torch.float64)) / len(dense) * len(targets)
            loss += float((dense - found)[:-1].gather(1, targets).sum(dtype=torch.float64))
            tokens += len(targets)
        return divergence / tokens, loss / tokens


def _hessians(block: Block, states: Sequence[Tensor], where: str) -> dict[str, Tensor]:
    """The mean of x x^T for each matrix of a dense block."""
    normed = [block.normed(state) for state in states]
    found: dict[str, InputStatistics] = dict.fromkeys(FIRST, statistics_of(f"{where} layer norm", normed))
    found["attn.out_proj"] = statistics_of(f"{where} out_proj", map(block.attended, normed))
    found["mlp.fc_out"] = statistics_of(f"{where} fc_out", map(block.inner, normed))
    return {name: statistics.hessian for name, statistics in found.items()}
