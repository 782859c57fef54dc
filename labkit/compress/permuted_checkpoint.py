"""Puts the channels of a GPT-J into another order. The model's results stay the same, but 2:4 masks harm it less.

- The hidden states have the same order in all blocks. This order applies to the columns of the embedding, q, k, v, fc_in and
  lm_head, to the norms, and to the rows of out_proj and fc_out.
- The dimensions of v are the inputs of out_proj. They are reordered within each head only.
- The neurons of each MLP are the inputs of fc_out. They can have any order, because GELU works on each neuron alone.

Queries and keys keep their order, because the rotary position embedding depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.output import Progress
from labkit.checkpoints.tensor_file import TensorFile
from labkit.compress.block import FIRST
from labkit.compress.channel_permutation import SearchOptions, search_permutation
from labkit.home import write_atomically
from labkit.json_file import read_json_object
from labkit.tokenizer import Tokenizer

PERMUTATIONS = "permutations.json"
"""The file with the orders. It is part of the finished folder."""


@dataclass(frozen=True)
class Orders:
    """The new orders of a model's channels, as int64 tensors.

    `hidden` `[hidden_size]` is the order of the hidden states. `values` and `neurons` have a tensor for each block: the orders
    of the dimensions of v `[hidden_size]` and of the neurons `[intermediate_size]`. Channel i of the new model is channel
    order[i] of the old model.
    """

    hidden: Tensor
    values: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]

    def rows_and_columns(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """The orders of the rows and of the columns of the tensor with this Hugging Face name; None means unchanged.

        A bias has no columns.
        """
        module = name.rpartition(".")[0].removeprefix("transformer.")
        if module in ("wte", "lm_head"):
            return None, self.hidden
        if ".h." not in name:
            return self.hidden, None
        layer, _, part = module.removeprefix("h.").partition(".")
        values, neurons = self.values[int(layer)], self.neurons[int(layer)]
        return {
            "ln_1": (self.hidden, None),
            "attn.q_proj": (None, self.hidden),
            "attn.k_proj": (None, self.hidden),
            "attn.v_proj": (values, self.hidden),
            "attn.out_proj": (self.hidden, values),
            "mlp.fc_in": (neurons, self.hidden),
            "mlp.fc_out": (self.hidden, neurons),
        }[part]

    def save(self, path: Path) -> None:
        """Write the orders as JSON."""
        found = {"hidden": self.hidden.tolist(), "values": [each.tolist() for each in self.values]}
        write_atomically(path, json.dumps(found | {"neurons": [each.tolist() for each in self.neurons]}) + "\n")

    @classmethod
    def load(cls, path: Path) -> Orders | None:
        """Read the orders from a file; return None if there is no file."""
        if not path.is_file():
            return None
        found = read_json_object(path)
        return cls(
            _order(found["hidden"]), tuple(map(_order, found["values"])), tuple(_order(each) for each in found["neurons"])
        )


def _order(places: list[int]) -> Tensor:
    return torch.tensor(places, dtype=torch.int64, device="cpu")


def search_orders(checkpoint: Checkpoint, options: SearchOptions, progress: Progress) -> Orders:
    """Search the orders with which 2:4 masks keep more magnitude in the blocks' matrices (`search_permutation`).

    As in ASP, matrices with the same inputs are searched together. The first four matrices of all blocks form one such group,
    because they all read the hidden states.
    """
    config = checkpoint.config
    values, neurons, steps = [], [], config.num_layers + 1

    def read(layer: int, module: str) -> Tensor:
        return checkpoint.read(f"transformer.h.{layer}.{module}.weight", dtype=torch.float32)

    for layer in range(config.num_layers):
        progress(layer, steps, f"channel permutation of block {layer}")
        heads = torch.split(read(layer, "attn.out_proj"), config.head_dim, dim=1)
        found = [search_permutation(each, options) + index * config.head_dim for index, each in enumerate(heads)]
        values.append(torch.cat(found))
        neurons.append(search_permutation(read(layer, "mlp.fc_out"), options))
    progress(config.num_layers, steps, "channel permutation of the hidden states")
    first = torch.cat([read(layer, module) for layer in range(config.num_layers) for module in FIRST])
    return Orders(search_permutation(first, options), tuple(values), tuple(neurons))


class PermutedCheckpoint(Checkpoint):
    """The weights of the checkpoint `inner`, with its channels in the given orders."""

    def __init__(self, inner: Checkpoint, orders: Orders) -> None:
        self._inner, self._orders = inner, orders
        self.name, self.config, self.path, self.weight_dtype = inner.name, inner.config, inner.path, inner.weight_dtype

    def weight_files(self) -> Sequence[TensorFile]:
        """The files of the inner checkpoint, where the channels have their first order."""
        return self._inner.weight_files()

    def _stored_dtype(self, name: str) -> torch.dtype:
        return self._inner.stored_dtype(name)

    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        whole = self._inner.read(name)
        of_rows, of_columns = self._orders.rows_and_columns(name)
        if of_rows is not None:
            whole = whole[of_rows]
        if of_columns is not None and whole.dim() == 2:
            whole = whole[:, of_columns]
        target.copy_(whole[rows] if columns is None else whole[rows, columns])

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the inner checkpoint."""
        return self._inner.tokenizer()
