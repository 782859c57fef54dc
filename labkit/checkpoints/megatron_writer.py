"""Writes a GPT-J in Megatron-LM's layout, one rank's file at a time. The module `megatron` reads this layout.

The layout, the names, the order of the fused query, key and value (checkpoint version 3) and the padding are Megatron-LM's.
`megatron_settings` explains why Megatron-LM's own GPT class cannot compute this model.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.megatron import FILE, TRACKER
from labkit.checkpoints.megatron_names import LAYER_TENSORS, QKV
from labkit.checkpoints.megatron_settings import settings_of
from labkit.checkpoints.output import Progress
from labkit.checkpoints.split import rectangle_of, span
from labkit.config import GPTJConfig

VOCAB_MULTIPLE = 128
"""Megatron-LM's `make_vocab_size_divisible_by`: each tensor rank's share of the vocabulary is a multiple of this number."""


def padded_vocab(config: GPTJConfig, tensor_parallel: int) -> int:
    """The size of the vocabulary, including the rows of zeros that make the shares of all ranks equal."""
    multiple = VOCAB_MULTIPLE * tensor_parallel
    return -(-config.vocab_size // multiple) * multiple


def write_megatron(
    checkpoint: Checkpoint,
    folder: Path,
    tensor_parallel: int,
    pipeline_parallel: int,
    dtype: torch.dtype | None,
    progress: Progress,
) -> None:
    """Write `release/mp_rank_TT[_PPP]/model_optim_rng.pt` into an empty folder; the tracker file is written last.

    dtype: the dtype of all tensors; None keeps each tensor's own dtype. Only one rank's part is in memory at a time.
    """
    config = checkpoint.config
    settings = settings_of(config, tensor_parallel, pipeline_parallel, padded_vocab(config, tensor_parallel))
    settings |= {"make_vocab_size_divisible_by": VOCAB_MULTIPLE, "params_dtype": dtype or checkpoint.weight_dtype}
    ranks = [(stage, rank) for stage in range(pipeline_parallel) for rank in range(tensor_parallel)]
    for number, (stage, rank) in enumerate(ranks):
        name = f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if pipeline_parallel > 1 else "")
        progress(number, len(ranks), name)
        part = _TensorRank(checkpoint, rank, tensor_parallel, dtype)
        content = {
            "args": argparse.Namespace(**settings),
            "checkpoint_version": 3.0,
            "iteration": 0,
            "model": {"language_model": part.stage(stage, pipeline_parallel)},
        }
        (folder / "release" / name).mkdir(parents=True)
        torch.save(content, folder / "release" / name / FILE)
    (folder / TRACKER).write_text("release", "utf-8")
    progress(len(ranks), len(ranks), TRACKER)


class _TensorRank:
    """The weights of one tensor rank."""

    def __init__(self, checkpoint: Checkpoint, rank: int, ranks: int, dtype: torch.dtype | None) -> None:
        self.checkpoint, self.rank, self.ranks, self.dtype = checkpoint, rank, ranks, dtype
        self.config = checkpoint.config

    def stage(self, stage: int, stages: int) -> dict[str, Any]:
        """The nested dictionary of the weights that this tensor rank has in one pipeline stage."""
        encoder: dict[str, Tensor] = {}
        for local, layer in enumerate(span(self.config.num_layers, stage, stages)):
            encoder |= self._layer(f"layers.{local}.", f"transformer.h.{layer}.")
        found: dict[str, Any] = {"encoder": encoder}
        if stage == 0:
            found["embedding"] = {"word_embeddings": {"weight": self._vocabulary("transformer.wte.weight")}}
        if stage == stages - 1:
            encoder |= {f"final_layernorm.{part}": self._share(f"transformer.ln_f.{part}") for part in ("weight", "bias")}
            found["output_layer"] = {part: self._vocabulary(f"lm_head.{part}") for part in ("weight", "bias")}
        return found

    def _layer(self, stored: str, prefix: str) -> dict[str, Tensor]:
        found = {f"{stored}{name}": self._share(prefix + ours) for ours, name in LAYER_TENSORS.items()}
        parts = [self._share(f"{prefix}attn.{which}_proj.weight") for which in "qkv"]
        by_head = [part.view(-1, 1, self.config.head_dim, self.config.hidden_size) for part in parts]
        found[f"{stored}{QKV}"] = torch.cat(by_head, dim=1).view(-1, self.config.hidden_size)  # [heads, 3, head_dim, hidden]
        return found

    def _vocabulary(self, name: str) -> Tensor:
        """This rank's rows of the padded vocabulary; the padding rows are zero."""
        vocab_size = self.config.vocab_size
        held = span(padded_vocab(self.config, self.ranks), self.rank, self.ranks)
        rows = slice(min(held.start, vocab_size), min(held.stop, vocab_size))
        values = self.checkpoint.read(name, dtype=self.dtype, rows=rows)
        padded = values.new_zeros(len(held), *values.shape[1:])
        padded[: len(values)] = values
        return padded

    def _share(self, name: str) -> Tensor:
        """This rank's share of a tensor."""
        rows, columns = rectangle_of(name, expected_shapes(self.config)[name], self.rank, self.ranks)
        return self.checkpoint.read(name, dtype=self.dtype, rows=rows, columns=columns)
