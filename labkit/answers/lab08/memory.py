"""The answers to exercises 8.1 and 8.2: references, comparisons and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab08.memory import LARGEST_BATCH, STORED_GIB


# 8.1 ------------------------------------------------------------------------------------------------------------------
def stored_gib(parameters: int, bits: int, sparse: bool, group_size: int) -> float:
    """The reference solution of exercise 8.1."""
    return _size(parameters, bits, sparse, group_size)


def _size(
    parameters: int,
    bits: int,
    sparse: bool,
    group_size: int,
    *,
    unit: float = 2**30,
    bits_in_byte: int = 8,
    scale_bits: int | None = 16,
    index_bits: float = 2,
    share: float = 0.5,
    dense: str = "",
) -> float:
    """Return the size in units of `unit` bytes. Options make the known mistakes.

    If `dense` is "scales" or "indexes", these are counted for all weights of a sparse model, not only for its stored weights.
    If `scale_bits` is None, a scale has as many bits as a value.
    """
    scale_bits = bits if scale_bits is None else scale_bits
    stored = parameters * share if sparse else parameters
    scales = (parameters if dense == "scales" else stored) * (scale_bits / group_size if group_size else 0)
    indexes = (parameters if dense == "indexes" else stored) * index_bits * sparse
    return (stored * bits + scales + indexes) / bits_in_byte / unit


STORED_GIB_ANSWER = Answer(
    exercise=STORED_GIB,
    reference=stored_gib,
    comparison=Comparison(),
    mistakes=(
        Mistake("You return GB (10^9 bytes); return GiB, units of 2^30 bytes.", partial(_size, unit=1e9)),
        Mistake("You return bits divided by 2^30; a byte has 8 bits.", partial(_size, bits_in_byte=1)),
        Mistake("You return bytes; divide them by 2^30.", partial(_size, unit=1)),
        Mistake(
            "The indexes are missing: without them, nobody knows where the stored values of a sparse model belong.",
            partial(_size, index_bits=0, dense=""),
        ),
        Mistake(
            "You count an index for every weight of a sparse model, but only stored values have one.",
            partial(_size, index_bits=2, dense="indexes"),
        ),
        Mistake(
            "You count one index for each group of 4, but both stored values of a group have an index.",
            partial(_size, index_bits=1, dense=""),
        ),
        Mistake("The scales are missing: each group has one, of 16 bits.", partial(_size, scale_bits=0, dense="")),
        Mistake(
            "You give a scale as many bits as a value, but a scale always has 16 bits.",
            partial(_size, scale_bits=None, dense=""),
        ),
        Mistake("You count 32 bits for a scale; it has 16.", partial(_size, scale_bits=32, dense="")),
        Mistake("You count 2 bits for a scale; it has 2 bytes, which are 16 bits.", partial(_size, scale_bits=2, dense="")),
        Mistake(
            "In a sparse model, groups consist of stored values, but you also count scales for the pruned ones.",
            partial(_size, dense="scales", index_bits=2, scale_bits=16),
        ),
        Mistake(
            "2:4 sparsity halves the number of values; you count as many as in a dense model.",
            partial(_size, share=1.0, dense=""),
        ),
        Mistake("You keep a quarter of the values; 2 of 4 are a half.", partial(_size, share=0.25, dense="")),
    ),
)


# 8.2 ------------------------------------------------------------------------------------------------------------------
def largest_batch(model: dict[str, int], gpu_bytes: int, reserve: float, shards: int, tokens: int, element_bytes: int) -> int:
    """The reference solution of exercise 8.2."""
    return int(_batch(model, gpu_bytes, reserve, shards, tokens, element_bytes))


def _batch(
    model: dict[str, int],
    gpu_bytes: int,
    reserve: float,
    shards: int,
    tokens: int,
    element_bytes: int,
    *,
    kinds: int = 2,
    in_bytes: bool = True,
    all_tokens: bool = True,
    weights_divided: bool = True,
    cache_divided: bool = True,
    reserved: str = "of the memory",
    rounded: Callable[[float], float] = math.floor,
    never_negative: bool = True,
) -> float:
    """Return the largest batch size. There is an option for each step of the calculation.

    A known mistake sets some options to wrong values.
    """
    weights = model["weight_bytes"] / (shards if weights_divided else 1)
    room = {
        "of the memory": gpu_bytes * (1 - reserve) - weights,
        "of the rest": (gpu_bytes - weights) * (1 - reserve),
        "nothing": gpu_bytes - weights,
    }[reserved]
    each = kinds * model["layers"] * model["hidden"] * (element_bytes if in_bytes else 1) * (tokens if all_tokens else 1)
    found = rounded(room / (each / (shards if cache_divided else 1)))
    return max(0, found) if never_negative else found


LARGEST_BATCH_ANSWER = Answer(
    exercise=LARGEST_BATCH,
    reference=largest_batch,
    comparison=Comparison(),
    mistakes=(
        Mistake("The cache holds a key and a value for each token; you count only one of the two.", partial(_batch, kinds=1)),
        Mistake("You count the numbers of the cache, not their bytes.", partial(_batch, in_bytes=False)),
        Mistake(
            "A sequence has a key and a value for each of its tokens; you count one token.", partial(_batch, all_tokens=False)
        ),
        Mistake(
            "You put all weights on each GPU, but the shards divide them evenly.",
            partial(_batch, weights_divided=False, never_negative=True),
        ),
        Mistake(
            "You put the whole cache on each GPU, but each shard keeps only its heads.",
            partial(_batch, cache_divided=False),
        ),
        Mistake("You fill the whole memory; the reserve must stay free.", partial(_batch, reserved="nothing")),
        Mistake(
            "The reserve is a fraction of the whole memory, not of the memory that the weights leave free.",
            partial(_batch, reserved="of the rest"),
        ),
        Mistake("You round up, but the last sequence does not fit: round down.", partial(_batch, rounded=math.ceil)),
        Mistake("Only whole sequences count; your number has a fraction. Round it down.", partial(_batch, rounded=float)),
        Mistake(
            "You round to the nearest number; if that is up, the last sequence does not fit. Round down.",
            partial(_batch, rounded=round),
        ),
        Mistake(
            "If the weights alone are too large, the answer is 0; yours is negative.", partial(_batch, never_negative=False)
        ),
        Mistake(
            "If the weights alone are too large, int(...) of a negative number is negative; the answer is 0.",
            partial(_batch, never_negative=False, rounded=int),
        ),
    ),
)
ANSWERS = (STORED_GIB_ANSWER, LARGEST_BATCH_ANSWER)
