"""The interface of every source of weights: a config, a list of tensors, and a method `read` that checks the values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from labkit.checkpoints.tensor_file import TensorFile
from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest
from labkit.plurals import counted
from labkit.tokenizer import Tokenizer


def expected_shapes(config: GPTJConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a GPT-J with this config. The keys are the tensors' Hugging Face names."""
    hidden, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (vocab, hidden)}
    for layer in range(config.num_layers):
        prefix = f"transformer.h.{layer}."
        shapes |= {f"{prefix}ln_1.weight": (hidden,), f"{prefix}ln_1.bias": (hidden,)}
        shapes |= {f"{prefix}attn.{part}_proj.weight": (hidden, hidden) for part in ("q", "k", "v", "out")}
        shapes |= {f"{prefix}mlp.fc_in.weight": (inner, hidden), f"{prefix}mlp.fc_in.bias": (inner,)}
        shapes |= {f"{prefix}mlp.fc_out.weight": (hidden, inner), f"{prefix}mlp.fc_out.bias": (hidden,)}
    shapes |= {"transformer.ln_f.weight": (hidden,), "transformer.ln_f.bias": (hidden,)}
    return shapes | {"lm_head.weight": (vocab, hidden), "lm_head.bias": (vocab,)}


class Checkpoint(ABC):
    """A GPT-J's weights, read one tensor at a time.

    `path` is the directory of the weights (None for synthetic weights); `weight_dtype` is the dtype in which they are stored.
    """

    name: str
    config: GPTJConfig
    path: Path | None
    weight_dtype: torch.dtype

    @property
    def opened_from(self) -> str:
        """What `open_checkpoint` needs to open this checkpoint again: its directory, or its name."""
        return str(self.path or self.name)

    def tensor_names(self) -> list[str]:
        """The Hugging Face names of all tensors."""
        return list(expected_shapes(self.config))

    def stored_dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored; raises `InvalidRequest` for a name that the model does not have."""
        if name not in expected_shapes(self.config):
            raise InvalidRequest(f"{name!r} is not a tensor of a GPT-J with {counted(self.config.num_layers, 'layer')}")
        return self._stored_dtype(name)

    def read(
        self,
        name: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> Tensor:
        """Read one tensor, or some of its rows and columns, to `device` in `dtype` (default: the dtype in which it is stored).

        The ends of a slice can be negative, as in Python, but a slice must not have a step. Raises a `CheckpointError`
        that names the tensor if the tensor is missing, too short, has a wrong shape, or contains NaN or infinity. Values that
        become infinite when they are rounded to `dtype` also raise this error.
        """
        shape = expected_shapes(self.config).get(name)
        if shape is None:
            raise InvalidRequest(f"{name!r} is not a tensor of a GPT-J with {counted(self.config.num_layers, 'layer')}")
        if columns is not None and len(shape) == 1:
            raise InvalidRequest(f"{name} has one dimension, so it has rows but no columns; leave columns out")
        rows = _span(rows or slice(None), shape[0])
        columns = None if columns is None else _span(columns, shape[1])
        size = [part.stop - part.start for part in (rows, columns) if part]
        tensor = torch.empty(size if columns else [*size, *shape[1:]], device=device, dtype=dtype or self._stored_dtype(name))
        self._read(name, rows, columns, tensor)
        if not _all_finite(tensor):
            bad = counted(int((~torch.isfinite(tensor)).sum()), "value that is", "values that are")
            raise CheckpointError(f"{self.name}: {name} holds {bad} NaN or infinite as {tensor.dtype}")
        return tensor

    def weight_files(self) -> Sequence[TensorFile]:
        """The files that hold the weights, always in the same order. By default none: the weights are generated when read."""
        return ()

    @abstractmethod
    def _stored_dtype(self, name: str) -> torch.dtype:
        """The dtype in which a tensor is stored."""

    @abstractmethod
    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        """Copy the given rows (and columns) of a tensor to `target`, which can have any dtype and device.

        Both slices are within the tensor and have no step. An implementation must use little memory besides `target`.
        """

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that belongs to the weights; raises `NotAvailable` if there is no tokenizer."""


def _span(part: slice, length: int) -> slice:
    """Return the slice `part` with both ends counted from the start, so that neither end is negative.

    Raises `InvalidRequest` for a slice with a step.
    """
    start, stop, step = part.indices(length)
    if step != 1:
        raise InvalidRequest(f"the slice {part} has a step; only consecutive rows and columns can be read")
    return slice(start, max(start, stop))


def _all_finite(tensor: Tensor) -> bool:
    """Whether all values are finite.

    Only the minimum and the maximum are checked, because this needs no second tensor of the same size.
    """
    if tensor.numel() == 0:
        return True
    lowest, highest = tensor.aminmax()
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))
