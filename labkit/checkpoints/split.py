"""Defines how a GPT-J is split over ranks: its tensors over tensor-parallel ranks, and its layers over pipeline stages.

This module is the only place that defines how each tensor is split: the ranks of a running model and all sharded file formats
derive their slices from it. The module uses only the names and shapes of tensors, not files or values.
"""

from __future__ import annotations

import math
from enum import Enum

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest


class Split(Enum):
    """Which part of a tensor a tensor-parallel rank holds."""

    ROWS = "an equal share of the rows: output features of a matrix that reads the hidden state"
    COLUMNS = "an equal share of the columns: input features of a matrix that adds to the hidden state"
    VOCABULARY = "a share of the rows, one row per token of the vocabulary; shares may differ by one row"
    ONCE = "the whole tensor, but only one rank adds it to the sum over the ranks"
    WHOLE = "all of it"


_SPLITS = {
    **dict.fromkeys(("q_proj.weight", "k_proj.weight", "v_proj.weight", "fc_in.weight", "fc_in.bias"), Split.ROWS),
    **dict.fromkeys(("out_proj.weight", "fc_out.weight"), Split.COLUMNS),
    **dict.fromkeys(("wte.weight", "lm_head.weight", "lm_head.bias"), Split.VOCABULARY),
    "fc_out.bias": Split.ONCE,
}
"""The split of each tensor. The keys are the last two parts of the tensors' Hugging Face names.

Tensors that are not listed are whole on every rank.

This is the split of Megatron-LM (Shoeybi et al. 2019): the first matrix of a pair is cut by rows and the second by columns,
so that a block needs only one sum over the ranks.
"""


def split_of(name: str) -> Split:
    """The split of the tensor with this Hugging Face name."""
    return _SPLITS.get(".".join(name.split(".")[-2:]), Split.WHOLE)


def share_of(name: str, shape: tuple[int, ...], rank: int, ranks: int) -> dict[str, slice]:
    """The `rows` or `columns` of a tensor of this shape that a rank holds; an empty dictionary means the whole tensor."""
    split = split_of(name)
    if ranks == 1 or split in (Split.ONCE, Split.WHOLE):
        return {}
    axis = 1 if split is Split.COLUMNS else 0
    stretch = span(shape[axis], rank, ranks)
    return {"columns" if axis else "rows": slice(stretch.start, stretch.stop)}


def rectangle_of(name: str, shape: tuple[int, ...], rank: int, ranks: int) -> tuple[slice, slice | None]:
    """The rows and columns of a tensor of this shape that a rank holds.

    The columns are None if the tensor has one dimension.
    """
    share = share_of(name, shape, rank, ranks)
    columns = share.get("columns", slice(0, shape[1])) if len(shape) == 2 else None
    return share.get("rows", slice(0, shape[0])), columns


def share_shape(name: str, shape: tuple[int, ...], rank: int, ranks: int) -> tuple[int, ...]:
    """The shape of a rank's share of a tensor; `shape` is the shape of the whole tensor."""
    return tuple(part.stop - part.start for part in rectangle_of(name, shape, rank, ranks) if part is not None)


def span(count: int, index: int, parts: int) -> range:
    """Cut `count` items into `parts` consecutive ranges, and return range number `index`.

    If `parts` does not divide `count`, the first ranges have one item more each.
    """
    size, more = divmod(count, parts)
    begin = index * size + min(index, more)
    return range(begin, begin + size + (index < more))


def nearest_tensor_parallel(config: GPTJConfig, size: int) -> int:
    """The number of tensor-parallel ranks closest to `size` that divides the number of heads and the inner size."""
    return _nearest_divisor(size, math.gcd(config.num_heads, config.intermediate_size))


def check_tensor_parallel(config: GPTJConfig, size: int) -> None:
    """Raise `InvalidRequest`, with the nearest accepted size, unless `size` divides the head count and the inner size."""
    nearest = nearest_tensor_parallel(config, size)
    if nearest != size:
        raise InvalidRequest(
            f"tensor parallel size is {size}; it must divide the {config.num_heads} heads and the inner size "
            f"{config.intermediate_size} of this model; the nearest size that does is {nearest}"
        )


def check_pipeline_parallel(config: GPTJConfig, size: int) -> None:
    """Raise `InvalidRequest`, with the nearest accepted size, unless `size` divides the number of layers."""
    nearest = _nearest_divisor(size, config.num_layers)
    if nearest != size:
        raise InvalidRequest(
            f"pipeline parallel size is {size}; it must divide the {config.num_layers} layers of this model; the nearest "
            f"size that does is {nearest}"
        )


def _nearest_divisor(size: int, total: int) -> int:
    """The divisor of `total` that is closest to `size`; the smaller divisor if two are equally close."""
    divisors = [divisor for divisor in range(1, total + 1) if total % divisor == 0]
    return min(divisors, key=lambda divisor: (abs(divisor - size), divisor))
