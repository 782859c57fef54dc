"""Real tensors of gptj-tiny: its weights, and the inputs of its matrices for a passage of the calibration text."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.compress.block import FIRST, Block
from labkit.compress.calibration import CalibrationText, windows_of

MODEL = "gptj-tiny"
TOKENS = 512
"""The number of tokens in a passage: the context length of the model."""


@functools.cache
def checkpoint() -> Checkpoint:
    """The checkpoint of the built-in model."""
    return open_checkpoint(MODEL)


@functools.cache
def weight(name: str) -> Tensor:
    """A tensor of the model in float32, by its Hugging Face name."""
    return checkpoint().read(name, dtype=torch.float32)


def block(index: int) -> Block:
    """The block of the model with this index, dense and in float32."""
    prefix = f"transformer.h.{index}."
    names = [name for name in checkpoint().tensor_names() if name.startswith(prefix)]
    return Block(checkpoint().config, {name.removeprefix(prefix): weight(name) for name in names})


@functools.cache
def passages(count: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Passages of the calibration text, as tokens."""
    found = windows_of(CalibrationText.read(), checkpoint().tokenizer(), TOKENS, count, seed)
    return tuple(map(tuple, found))


def embedded(passage: tuple[int, ...]) -> Tensor:
    """The hidden states `[tokens, 256]` that enter the first block."""
    return weight("transformer.wte.weight")[torch.tensor(passage, dtype=torch.int64, device="cpu")]


@functools.cache
def first_inputs() -> dict[str, Tensor]:
    """The inputs of the first block's matrices for one passage; see `inputs`."""
    return inputs_of(block(0), embedded(passages(1)[0]))


@functools.cache
def inputs(index: int, passage: int = 0) -> dict[str, Tensor]:
    """The inputs `[512, in]` of each matrix of a block for a passage, by names such as "mlp.fc_out"."""
    hidden = embedded(passages(passage + 1)[passage])
    for before in range(index):
        hidden = block(before).forward(hidden)
    return inputs_of(block(index), hidden)


def inputs_of(found: Block, hidden: Tensor) -> dict[str, Tensor]:
    """The inputs of each matrix of a block, given the hidden states that enter it."""
    normed = found.normed(hidden)
    return dict.fromkeys(FIRST, normed) | {"attn.out_proj": found.attended(normed), "mlp.fc_out": found.inner(normed)}


def with_outliers(channels: tuple[int, ...], times: float) -> tuple[Tensor, Tensor]:
    """The inputs `[512, 256]` of fc_in in block 1 with `channels` multiplied by `times`, and fc_in's weight with these columns
    divided by `times`.

    The product of these two matrices is the same as in the model. Large models have channels with such large values (Dettmers
    et al. 2022, LLM.int8()).
    """
    factors = torch.ones(checkpoint().config.hidden_size, dtype=torch.float32, device="cpu")
    factors[list(channels)] = times
    return inputs(1)["mlp.fc_in"] * factors, weight("transformer.h.1.mlp.fc_in.weight") / factors
