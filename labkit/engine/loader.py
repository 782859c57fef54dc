"""Loads a model by name and returns an engine that runs it. Memory is checked before anything is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

import torch

from labkit.checkpoints import Checkpoint, Tokenizer, config_of, is_quantized, open_checkpoint
from labkit.config import GPTJConfig
from labkit.engine import argument_forms
from labkit.engine.capacity import free_bytes
from labkit.engine.engine import Engine
from labkit.engine.engine_options import EngineOptions, checked_options
from labkit.engine.schedule.scheduler import MAX_BATCH_SIZE
from labkit.errors import InsufficientResources, InvalidRequest, NotAvailable
from labkit.model.stored_precision import precision_for
from labkit.model.weight_store import read_model
from labkit.precision import as_device, as_precision, bits_in_memory, compute_dtype
from labkit.sampling_vocabulary import MOST_SEED

HEADROOM = 1.05


def load(
    name: str | Path = "gptj-tiny",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    draft: str | Path | None = None,
    **options: Unpack[EngineOptions],
) -> Engine:
    """Load a model by name, directory or `config.json` and return the engine that runs it.

    device: by default a GPU if the machine has one, otherwise the CPU. dtype: the precision of the matrices: "fp32", "bf16",
    "fp16", "sparse24", "sparse24_int8", "int8", "w8a8", "int4", "fp8" or a torch dtype; by default fp16 on a GPU and fp32 on
    the CPU. seed: the seed of synthetic weights. If a directory holds weights that `labkit compress` or another quantizer has
    written, and labkit has kernels for their format, these weights are used without conversion. Weights are read one tensor at
    a time into their final place, so memory never holds a second copy of the model. draft: the name or directory of a smaller
    model with the same tokenizer. The draft guesses tokens, and the model checks them (speculative decoding). The generated
    tokens are the same as without a draft, and generation takes less time if the two models often choose the same token. The
    draft is loaded in the same precision, unless its files hold quantized weights. options: the options of `Engine`
    (`max_batch_size`, `num_slots`, ...).

    A text ends at any token that `config.json` or `generation_config.json` names as `eos_token_id`. Other settings in
    `generation_config.json` (temperature, top_k, beams, ...) are ignored with a warning that names them, because
    `SamplingParams` has the same defaults for every model.

    Raises `InvalidRequest` for an argument that is not accepted, `CheckpointError` for damaged weights, and `NotAvailable` if
    something that the model needs is missing. Raises `InsufficientResources` before anything is read if the weights do not fit
    into the free memory.
    """
    check_options(options)
    if not isinstance(name, str | os.PathLike):
        raise InvalidRequest(f"name is {argument_forms.shown(name)}; a model's name, a directory or a config.json is accepted")
    seed = argument_forms.whole("seed", seed, 0, MOST_SEED)
    target = as_device(device)
    chosen, config = as_precision(dtype, target), config_of(name)
    if not is_quantized(name):
        _check_fits(str(name), config, target, chosen)  # check before a download and before checksums are computed
    checkpoint = open_checkpoint(name, seed=seed)
    chosen = precision_for(checkpoint, dtype, target)
    check_memory(checkpoint, target, chosen)
    tokenizer = tokenizer_of(checkpoint)  # read before the weights, because the tokenizer might not match the model
    guesser = None if draft is None else _open_draft(draft, checkpoint, tokenizer, seed)
    if guesser is None or draft is None:
        return Engine(read_model(checkpoint, chosen, target), tokenizer, **options)
    precision = precision_for(guesser, None if is_quantized(draft) else dtype, target)
    beside = _needed_bytes(checkpoint.config, target, chosen)
    _check_fits(guesser.name, guesser.config, target, precision, beside=beside)
    model = read_model(checkpoint, chosen, target)
    return Engine(model, tokenizer, draft=read_model(guesser, precision, target), **options)


def _open_draft(draft: str | Path, target: Checkpoint, tokenizer: Tokenizer | None, seed: int) -> Checkpoint:
    """Open the checkpoint of a draft model.

    Raises `InvalidRequest` if the draft's token ids do not stand for the same texts as the target's.
    """
    if not isinstance(draft, str | os.PathLike):
        raise InvalidRequest(
            f"draft is {argument_forms.shown(draft)}; a model's name, a directory or a config.json is accepted"
        )
    checkpoint = open_checkpoint(draft, seed=seed)
    own, size = tokenizer_of(checkpoint), target.config.vocab_size
    if checkpoint.config.vocab_size != size:
        raise InvalidRequest(
            f"the draft {checkpoint.name} has a vocabulary of {checkpoint.config.vocab_size} tokens and {target.name} one of "
            f"{size}; give a draft with the same tokenizer, such as a student that `labkit compress --method distill` made"
        )
    if own is not None and tokenizer is not None:
        differs = (token for token in range(size) if own.token_bytes(token) != tokenizer.token_bytes(token))
        if (token := next(differs, None)) is not None:
            raise InvalidRequest(
                f"token {token} is {own.token_bytes(token)!r} in the draft {checkpoint.name} and "
                f"{tokenizer.token_bytes(token)!r} in {target.name}; give a draft with the same tokenizer"
            )
    return checkpoint


def check_options(options: EngineOptions) -> None:
    """Raise `InvalidRequest` for an option that an engine does not have, or for an option's value outside its range."""
    checked_options(options)


def check_memory(checkpoint: Checkpoint, device: torch.device, precision: str, ranks: int = 1) -> None:
    """Raise `InsufficientResources` when the weights in `precision` exceed the free memory of `device`.

    ranks: the number of devices that share the weights.
    """
    _check_fits(checkpoint.name, checkpoint.config, device, precision, ranks)


def _check_fits(
    name: str, config: GPTJConfig, device: torch.device, precision: str, ranks: int = 1, *, beside: int = 0
) -> None:
    """Raise `InsufficientResources` when a model does not fit. `beside`: bytes that another model will take first."""
    needed, free = _needed_bytes(config, device, precision, ranks), max(0, free_bytes(device) - beside)
    if needed > free:
        where = " beside the model that it drafts for" if beside else ""
        raise InsufficientResources(
            f"{name} needs {needed / 1e9:.1f} GB {'for each rank ' if ranks > 1 else ''}on {device} in {precision}, "
            f"but only {free / 1e9:.1f} GB are free{where}; choose a smaller precision (int8 takes a quarter of "
            "fp32), another device or a smaller model"
        )


def _needed_bytes(config: GPTJConfig, device: torch.device, precision: str, ranks: int = 1) -> int:
    """The bytes of the weights and tables of a model on each of `ranks` devices."""
    embedding = config.vocab_size * config.hidden_size
    matrices = (config.parameter_count - embedding) * bits_in_memory(precision, device) / 8
    needed = int((matrices + embedding * compute_dtype(precision, device).itemsize) * HEADROOM) // ranks
    return needed + 4 * config.context_length * (config.rotary_dim + MAX_BATCH_SIZE)  # the rotary table and the slot table


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer of a checkpoint; None if the checkpoint has no tokenizer."""
    try:
        return checkpoint.tokenizer()
    except NotAvailable:
        return None
