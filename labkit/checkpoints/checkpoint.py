"""What every source of weights offers: a shape, a list of tensors, and a checked read of one of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest
from labkit.tokenizer import Tokenizer


def expected_shapes(config: GPTJConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a GPT-J of this shape under Hugging Face's names, and the shape it must have."""
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
    """A GPT-J's weights, read a tensor at a time.

    `path` is the directory they are in (None for synthetic ones); `weight_dtype` what they are stored as.
    """

    name: str
    config: GPTJConfig
    path: Path | None
    weight_dtype: torch.dtype

    def tensor_names(self) -> list[str]:
        """Hugging Face's names of all tensors."""
        return list(expected_shapes(self.config))

    def stored_dtype(self, name: str) -> torch.dtype:
        """What one tensor is stored as; raises `InvalidRequest` for a name that is none of the model's."""
        if name not in expected_shapes(self.config):
            raise InvalidRequest(f"{name!r} is no tensor of a GPT-J of {self.config.num_layers} layers")
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
        """One tensor, or the given rows and columns of it, on `device` in `dtype` (left out: as stored).

        Slices may count from the end but have no step.
        Raises `CheckpointError` naming the tensor when it is missing, short, misshapen, or holds NaN or infinity
        (after rounding to `dtype`, too).
        """
        shape = expected_shapes(self.config).get(name)
        if shape is None:
            raise InvalidRequest(f"{name!r} is no tensor of a GPT-J of {self.config.num_layers} layers")
        if columns is not None and len(shape) == 1:
            raise InvalidRequest(f"{name} has one dimension; ask for rows of it, not for columns")
        rows = _span(rows or slice(None), shape[0])
        columns = None if columns is None else _span(columns, shape[1])
        size = [part.stop - part.start for part in (rows, columns) if part]
        tensor = torch.empty(size if columns else [*size, *shape[1:]], device=device, dtype=dtype or self._stored_dtype(name))
        self._read(name, rows, columns, tensor)
        if not _all_finite(tensor):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(f"{self.name}: {name} holds {bad} values that are NaN or infinite as {tensor.dtype}")
        return tensor

    @abstractmethod
    def _stored_dtype(self, name: str) -> torch.dtype:
        """What one tensor is stored as."""

    @abstractmethod
    def _read(self, name: str, rows: slice, columns: slice | None, target: Tensor) -> None:
        """Fill `target`, of any dtype and device, with rows (and columns, if given) of a tensor.

        Both slices are plain and in range. Little memory besides `target` may be used.
        """

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that belongs to the weights; raises `NotAvailable` when there is none."""


def _span(part: slice, length: int) -> slice:
    """A slice as two plain positions, the second not below the first; raises `InvalidRequest` for one with a step."""
    start, stop, step = part.indices(length)
    if step != 1:
        raise InvalidRequest(f"the slice {part} has a step; neighbouring rows and columns can be read")
    return slice(start, max(start, stop))


def _all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite, without a temporary of the tensor's size: both reach the extremes."""
    if tensor.numel() == 0:
        return True
    lowest, highest = tensor.aminmax()
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))
