"""The recipe for 2:4 sparse weights by magnitude, Wanda or SparseGPT, optionally retrained and stored as integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.block import FIRST, MATRICES, Block
from labkit.compress.calibration import default_windows
from labkit.compress.channel_permutation import SearchOptions
from labkit.compress.dense_model import DenseModel
from labkit.compress.gptq import DAMPING
from labkit.compress.input_statistics import InputStatistics, statistics_of
from labkit.compress.layer import BLOCK_BIASES
from labkit.compress.permuted_checkpoint import PERMUTATIONS, Orders, PermutedCheckpoint, search_orders
from labkit.compress.recipe import Recipe, WholeModel
from labkit.compress.recovery import RecoveryOptions, RecoveryState, recover
from labkit.compress.rounded_inputs import row_scaled_tensors
from labkit.compress.scales import check_group_size, searched
from labkit.compress.sparse_tensors import integer_tensors, quantization_config, sparse_tensors
from labkit.compress.sparsegpt import sparsegpt
from labkit.compress.two_four import check_two_four, magnitude_scores, two_four_mask, wanda_scores
from labkit.compress.work_folder import TRAINING
from labkit.compress.written_text import training_windows
from labkit.config import GPTJConfig
from labkit.weight_formats import Int8Weight

MASKS = ("magnitude", "wanda", "sparsegpt")
"""The ways to choose the weights that are kept."""


@dataclass(frozen=True)
class Pruned:
    """A pruned matrix: `weight` `[out, in]` float32 is 0 where a weight is pruned; `mask` is True where a weight is kept."""

    weight: Tensor
    mask: Tensor
    integers: IntegerWeight | None = None

    @property
    def stored(self) -> Tensor:
        """The matrix with the values that the files store."""
        return self.weight if self.integers is None else self.integers.dequantize()


@dataclass(frozen=True)
class Sparse(Recipe):
    """A recipe with 2:4 sparse weights.

    `mask` is one of `MASKS`. `scheme` says how the kept weights are stored; None keeps them in the model's own dtype.
    `training` has the options of a recovery; None means no recovery. `permuted`: whether the channels are first put into an
    order in which the mask keeps more magnitude. `orders` and `trained` (tensors by full names) are set by `prepared`.
    """

    mask: str
    scheme: IntegerScheme | None = None
    training: RecoveryOptions | None = None
    permuted: bool = False
    damping: float = DAMPING
    orders: Orders | None = None
    trained: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the method, such as 2:4-sparsegpt-recovered+int8."""
        integers = "" if self.scheme is None else f"+int{self.scheme.bits}"
        return f"2:4-{self.mask}{'-recovered' if self.training else ''}{integers}"

    @property
    def calibrated(self) -> bool:
        """Whether the method needs calibration text."""
        return self.mask != "magnitude" or self.training is not None

    @property
    def whole_text(self) -> bool:
        """True if the method trains, because training uses all of the calibration text."""
        return self.training is not None

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` if a matrix's rows cannot be divided into groups of four or into groups with a scale."""
        for name, inputs in (("attention", config.hidden_size), ("fc_out", config.intermediate_size)):
            check_two_four(inputs, name)
            if self.scheme is not None:
                check_group_size(self.scheme, inputs, name)

    def prepared(self, model: WholeModel) -> Sparse:
        """Return a copy of the recipe that has the orders of the channels and the tensors that the recovery trained."""
        orders = None
        if self.permuted:
            orders = Orders.load(model.folder / PERMUTATIONS)
            if orders is None:
                orders = search_orders(model.checkpoint, SearchOptions(seed=model.seed), model.progress)
                orders.save(model.folder / PERMUTATIONS)
        found = replace(self, orders=orders)
        return replace(found, trained=found.recovered(model)) if self.training else found

    def source(self, checkpoint: Checkpoint) -> Checkpoint:
        """The model with its channels in the orders that were found."""
        return checkpoint if self.orders is None else PermutedCheckpoint(checkpoint, self.orders)

    def recovered(self, model: WholeModel) -> dict[str, Tensor]:
        """Train the pruned model; return the tensors of all blocks by full names. The state is saved in `model.folder`."""
        assert self.training is not None
        dense, file = DenseModel(self.source(model.checkpoint)), model.folder / TRAINING
        start = None if file.is_file() else self._one_shot(dense, model)
        ids = training_windows(model, self.training.continuations, self.training.steps)
        state = recover(dense, start, ids, self.training, model.seed, file, model.progress)
        return {name: tensor.detach() for name, tensor in state.tensors.items()}

    def _one_shot(self, dense: DenseModel, model: WholeModel) -> RecoveryState:
        """Prune the model without training. A recovery starts from this state."""
        layers, method = dense.config.num_layers, replace(self, scheme=None, training=None)
        hidden = [dense.embedded(each) for each in model.ids[: default_windows(dense.config, len(model.ids[0]))]]
        tensors: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for layer in range(layers):
            model.progress(layer, layers + 1, f"pruning of block {layer}, where the recovery starts")
            block = dense.block(layer)
            found = dict(method.pruned(block, hidden, f"block {layer}"))
            hidden = [block.forward(state) for state in hidden] if method.calibrated else hidden
            tensors |= {f"transformer.h.{layer}.{name}": tensor for name, tensor in block.tensors.items()}
            masks |= {f"transformer.h.{layer}.{name}.weight": each.mask for name, each in found.items()}
        return RecoveryState.start(tensors, masks)

    def pruned(
        self, block: Block, hidden: Sequence[Tensor], where: str, masks: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[str, Pruned]]:
        """Prune each matrix of a block.

        The pruned values, as they are stored, replace the matrices in `block`, so that the inputs of later matrices are
        computed with these values. `hidden` are the states that enter the block, and `where` names the block in messages.
        `masks` are the masks to use, by module; if it is None, the masks are chosen here.
        """
        needed = self.calibrated
        inputs: tuple[tuple[Sequence[str], str, Callable[[Tensor], Tensor]], ...] = (
            (FIRST, "layer norm", block.normed),
            (MATRICES[4:5], "out_proj", lambda state: block.attended(block.normed(state))),
            (MATRICES[5:], "fc_out", lambda state: block.inner(block.normed(state))),
        )
        for names, reader, of_state in inputs:
            statistics = statistics_of(f"{where} {reader}", map(of_state, hidden)) if needed else None
            for name in names:
                found = self.matrix(block.tensors[f"{name}.weight"], statistics, None if masks is None else masks[name])
                block.tensors[f"{name}.weight"] = found.stored
                yield name, found

    def matrix(self, weight: Tensor, statistics: InputStatistics | None, mask: Tensor | None = None) -> Pruned:
        """Prune one matrix.

        `statistics` describe the matrix's inputs; the mask "magnitude" needs no statistics. A given `mask` is used unchanged.
        """
        hessian = None if statistics is None else statistics.hessian
        if mask is None and self.mask == "sparsegpt":
            assert hessian is not None
            found, mask = sparsegpt(weight, hessian, self.damping)
            if self.scheme is None:
                return Pruned(found.float(), mask)
        elif mask is None:
            scores = magnitude_scores(weight) if self.mask == "magnitude" else wanda_scores(weight, _squares(hessian))
            mask = two_four_mask(scores)
        kept = torch.where(mask, weight, 0.0)
        if self.scheme is None:
            return Pruned(kept, mask)
        if hessian is None or self.mask != "sparsegpt":
            return Pruned(kept, mask, searched(kept, self.scheme, None if hessian is None else hessian.diagonal()).round(kept))
        compensated, _ = sparsegpt(weight, hessian, self.damping, mask=mask)
        grid = searched(compensated.float(), self.scheme, hessian.diagonal())
        rounded, _ = sparsegpt(weight, hessian, self.damping, mask=mask, grid=grid)
        return Pruned(kept, mask, grid.round(rounded))

    def bits_per_weight(self, config: GPTJConfig) -> float:
        """The bits per weight. Half of the values are stored, and a mask of 4 bits for every four weights.

        For 16-bit values, the result is 9. For integers, the scales count as well.
        """
        if self.scheme is None:
            return 16 / 2 + 1
        hidden, inner = config.hidden_size, config.intermediate_size
        scales = (
            4 * hidden * self.scheme.groups(hidden) + inner * self.scheme.groups(hidden) + hidden * self.scheme.groups(inner)
        )
        return self.scheme.bits / 2 + 1 + 16 * scales / (4 * hidden * hidden + 2 * hidden * inner)

    def block_tensors(self, block: Block, hidden: Sequence[Tensor], layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors to store for a block: its pruned matrices in compressed form, and its dense tensors."""
        masks = None
        if self.trained:
            prefix = f"transformer.h.{layer}."
            block.tensors |= {name: self.trained[f"{prefix}{name}"] for name in block.tensors}
            masks = {name: block.tensors[f"{name}.weight"] != 0 for name in MATRICES}
            masks = {name: two_four_mask(mask.to(torch.uint8)) for name, mask in masks.items()}
        found: dict[str, Tensor] = {}
        for name in BLOCK_BIASES:  # the matrices are calibrated with the stored values
            block.tensors[name] = block.tensors[name].to(dtype).float()
            found[name] = block.tensors[name].to(dtype)
        for name, each in self.pruned(block, hidden, f"block {layer}", masks):
            if each.integers is None:
                found |= sparse_tensors(name, each.weight, each.mask, dtype)
            else:
                found |= integer_tensors(name, each.integers, each.mask)
        # Tensors with the most bytes per number come first in the file, so that all offsets are aligned.
        return dict(sorted(found.items(), key=lambda item: -item[1].element_size()))

    def head_tensors(
        self, tensors: dict[str, Tensor], epsilon: float, hidden: Sequence[Tensor], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Store the head: in int8 with a scale for each row if the kept weights are integers, otherwise dense."""
        if self.scheme is None:
            return {name: tensor.to(dtype) for name, tensor in tensors.items()}
        dense = {name: tensor.to(dtype) for name, tensor in tensors.items() if name != "lm_head.weight"}
        return row_scaled_tensors("lm_head", Int8Weight.quantize(tensors["lm_head.weight"]), None) | dense

    def quantization_config(self) -> dict[str, Any]:
        """The result of `sparse_tensors.quantization_config`."""
        return quantization_config(self.scheme)

    def settings(self) -> dict[str, Any]:
        """All settings that change the result."""
        found: dict[str, Any] = {"permuted": self.permuted}
        found |= {} if self.scheme is None else {"kept": str(self.scheme)}
        found |= {"damping": self.damping} if self.mask == "sparsegpt" else {}
        return found | ({"training": asdict(self.training)} if self.training else {})


def _squares(hessian: Tensor | None) -> Tensor:
    assert hessian is not None
    return hessian.diagonal()
