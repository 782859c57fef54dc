"""The answers to the exercises of lab 00: references, comparisons and known mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from labkit.config import GPTJConfig
from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab00 import (
    BITS,
    DECODE_FLOOR_MS,
    GPUS_NEEDED,
    KV_CACHE_BYTES,
    PARAMETER_COUNT,
    ROOFLINE_TIME,
    WEIGHT_GIB,
)
from labkit.exercises.shapes import Shape


# 0.1 ------------------------------------------------------------------------------------------------------------------
def parameter_count(config: GPTJConfig | Shape) -> int:
    """The reference solution of exercise 0.1."""
    h, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    block = 4 * h * h + (h * inner + inner) + (inner * h + h) + 2 * h
    return vocab * h + config.num_layers * block + 2 * h + (h * vocab + vocab)


def _count(
    config: GPTJConfig | Shape,
    *,
    norms: int = 1,
    norm_parts: int = 2,
    final_norm: bool = True,
    attention_biases: bool = False,
    mlp_biases: bool = True,
    always_four: bool = False,
    head_weights: bool = True,
    head_bias: bool = True,
) -> int:
    """The parameter count of exercise 0.1, with an option for each part of the model.

    A known mistake sets some options to wrong values.
    """
    h, vocab = config.hidden_size, config.vocab_size
    inner = 4 * h if always_four else config.intermediate_size
    block = 4 * h * h + 2 * h * inner + norms * norm_parts * h
    block += 4 * h * attention_biases + (inner + h) * mlp_biases
    around = vocab * h + norm_parts * h * final_norm + h * vocab * head_weights + vocab * head_bias
    return config.num_layers * block + around


PARAMETER_COUNT_ANSWER = Answer(
    exercise=PARAMETER_COUNT,
    reference=parameter_count,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "GPT-J's head does not share its weights with the embedding: it has its own h x v weights, and a bias.",
            partial(_count, head_weights=False, head_bias=False),
        ),
        Mistake(
            "You count only one matrix of v x h, but the embedding and the head each have their own matrix.",
            partial(_count, head_weights=False, head_bias=True),
        ),
        Mistake(
            "GPT-J's four attention projections have no biases, but you count some.",
            partial(_count, attention_biases=True),
        ),
        Mistake(
            "A GPT-J block has only one layer norm, whose output goes to both attention and MLP; you count two layer norms.",
            partial(_count, norms=2),
        ),
        Mistake(
            "Each block has a layer norm, which is missing from your count.", partial(_count, norms=0, attention_biases=False)
        ),
        Mistake(
            "A layer norm has a weight and a bias, 2h numbers in total; you count only one of them.",
            partial(_count, norm_parts=1),
        ),
        Mistake("One layer norm is missing: the final one, after the last block.", partial(_count, final_norm=False)),
        Mistake(
            "The MLP has biases, i + h numbers in each block; they are missing from your count.",
            partial(_count, mlp_biases=False),
        ),
        Mistake(
            "The MLP's width is config.intermediate_size, which need not be 4 x hidden_size.",
            partial(_count, always_four=True),
        ),
        Mistake("The head has a bias as well: one number for each entry of the vocabulary.", partial(_count, head_bias=False)),
    ),
)


# 0.2 ------------------------------------------------------------------------------------------------------------------
def weight_gib(parameters: int, precision: str, group_size: int) -> float:
    """The reference solution of exercise 0.2."""
    bits: float = BITS[precision]
    if precision == "int4":
        bits += 16 / group_size
    return parameters * bits / 8 / 2**30


def _size(
    parameters: int,
    precision: str,
    group_size: int,
    *,
    unit: float = 2**30,
    bits_in_byte: int = 8,
    scale_bits: int = 16,
    scale_for: str = "group",
) -> float:
    """The size of exercise 0.2, with an option for each step of the calculation.

    A known mistake sets some options to wrong values.
    """
    is_scaled = precision == "int4" or scale_for == "group of any precision"
    bits = BITS[precision] + is_scaled * scale_bits / (1 if scale_for == "weight" else group_size)
    return parameters * bits / bits_in_byte / unit


WEIGHT_GIB_ANSWER = Answer(
    exercise=WEIGHT_GIB,
    reference=weight_gib,
    comparison=Comparison(),
    mistakes=(
        Mistake("You return GB (10^9 bytes); return GiB: divide by 2^30.", partial(_size, unit=1e9)),
        Mistake("You return the number of bytes; divide by 2^30 for GiB.", partial(_size, unit=1)),
        Mistake("The scales of int4 are missing: 16 bits for every group.", partial(_size, scale_bits=0, scale_for="group")),
        Mistake("You return bits instead of bytes: divide by 8.", partial(_size, bits_in_byte=1)),
        Mistake("You add only 2 bits for a scale. A scale takes 2 bytes, which are 16 bits.", partial(_size, scale_bits=2)),
        Mistake(
            "You count one int4 scale for every weight, but all weights of a group share one scale.",
            partial(_size, scale_for="weight"),
        ),
        Mistake(
            "Only int4 has scales, but you add them for every precision.",
            partial(_size, scale_for="group of any precision"),
        ),
    ),
)


# 0.3 ------------------------------------------------------------------------------------------------------------------
def kv_cache_bytes(config: GPTJConfig | Shape, lengths: list[int], element_bytes: int) -> int:
    """The reference solution of exercise 0.3."""
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes


def _cache(
    config: GPTJConfig | Shape,
    lengths: list[int],
    element_bytes: int,
    *,
    kinds: int = 2,
    tokens: Callable[[list[int]], int] = sum,
    layers: Callable[[int], int] = int,
    width: Callable[[int, int], int] = lambda hidden_size, num_heads: hidden_size,
    in_bytes: bool = True,
) -> int:
    """The cache size of exercise 0.3, with an option for each step of the calculation.

    Each known mistake sets one option to a wrong value.
    """
    elements = kinds * layers(config.num_layers) * width(config.hidden_size, config.num_heads) * tokens(lengths)
    return elements * (element_bytes if in_bytes else 1)


KV_CACHE_BYTES_ANSWER = Answer(
    exercise=KV_CACHE_BYTES,
    reference=kv_cache_bytes,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "Your number is half of the right one: the cache stores a key and also a value for each token.",
            partial(_cache, kinds=1),
        ),
        Mistake(
            "You pad every sequence to the longest one, but nothing is padded here: add up the lengths.",
            partial(_cache, tokens=lambda lengths: max(lengths) * len(lengths)),
        ),
        Mistake("You count only the longest sequence: add up the lengths.", partial(_cache, tokens=max)),
        Mistake(
            "You count one token for each sequence, but the cache stores all tokens of a sequence.", partial(_cache, tokens=len)
        ),
        Mistake("Every layer has its own cache: multiply by num_layers.", partial(_cache, layers=lambda num_layers: 1)),
        Mistake(
            "You count one head, but a key has num_heads x head_dim = hidden_size numbers.",
            partial(_cache, width=lambda hidden_size, num_heads: hidden_size // num_heads),
        ),
        Mistake(
            "hidden_size already covers all heads, but you multiply by num_heads again.",
            partial(_cache, width=lambda hidden_size, num_heads: hidden_size * num_heads),
        ),
        Mistake(
            "You return the number of elements: multiply it by element_bytes to get bytes.", partial(_cache, in_bytes=False)
        ),
    ),
)


# 0.4 ------------------------------------------------------------------------------------------------------------------
def gpus_needed(weight_bytes: float, gpu_bytes: float, reserve: float) -> int:
    """The reference solution of exercise 0.4."""
    gpus = 1
    while weight_bytes / gpus > gpu_bytes * (1 - reserve):
        gpus *= 2
    return gpus


def _gpus(
    weight_bytes: float,
    gpu_bytes: float,
    reserve: float,
    *,
    rounded: str = "up to a power of two",
    usable: Callable[[float], float] = lambda reserve: 1 - reserve,
) -> int:
    """The number of GPUs of exercise 0.4, with an option for each step of the calculation.

    A known mistake sets some options to wrong values.
    """
    room = gpu_bytes * usable(reserve)
    if rounded == "up":
        return math.ceil(weight_bytes / room)
    if rounded == "down to a power of two":
        return int(2 ** max(0, math.floor(math.log2(weight_bytes / room))))
    gpus = 1
    while weight_bytes / gpus > room or (rounded == "up, even if it fits" and weight_bytes / gpus == room):
        gpus *= 2
    return gpus


GPUS_NEEDED_ANSWER = Answer(
    exercise=GPUS_NEEDED,
    reference=gpus_needed,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The weights are only split over 1, 2, 4, 8, ... GPUs, because powers of two divide the heads evenly: round up to "
            "a power of two.",
            partial(_gpus, rounded="up"),
        ),
        Mistake(
            "You let the weights fill the whole memory of a GPU, but the reserve must stay free.",
            partial(_gpus, usable=lambda reserve: 1.0),
        ),
        Mistake(
            "A share that fills the usable memory exactly still fits: compare with >, not with >=.",
            partial(_gpus, rounded="up, even if it fits"),
        ),
        Mistake("You round down, but each GPU's share must fit: round up.", partial(_gpus, rounded="down to a power of two")),
        Mistake(
            "You divide by the reserve, but the weights may take the fraction 1 - reserve of the memory.",
            partial(_gpus, usable=lambda reserve: reserve or 1.0),
        ),
    ),
)


# 0.5 ------------------------------------------------------------------------------------------------------------------
def roofline_time(flops: float, bytes_read: float, flops_per_second: float, bytes_per_second: float) -> tuple[float, str]:
    """The reference solution of exercise 0.5."""
    compute, memory = flops / flops_per_second, bytes_read / bytes_per_second
    return max(compute, memory), "memory" if memory >= compute else "compute"


def _step(
    flops: float,
    bytes_read: float,
    flops_per_second: float,
    bytes_per_second: float,
    *,
    seconds: Callable[[Iterable[float]], float] = max,
    names: tuple[str, str] = ("compute", "memory"),
    returned: Callable[[float, str], Any] = lambda seconds, bound: (seconds, bound),
) -> Any:
    """The answer of exercise 0.5, with an option for each step of the calculation.

    A known mistake sets some options to wrong values.
    """
    compute, memory = flops / flops_per_second, bytes_read / bytes_per_second
    return returned(seconds((compute, memory)), names[memory >= compute])


ROOFLINE_TIME_ANSWER = Answer(
    exercise=ROOFLINE_TIME,
    reference=roofline_time,
    comparison=Comparison(),
    mistakes=(
        Mistake("You add the two times, but they overlap: only the longer time counts.", partial(_step, seconds=sum)),
        Mistake("You take the shorter of the two times, but the step takes the longer time.", partial(_step, seconds=min)),
        Mistake(
            'The names of the bounds are swapped: the bound is "memory" if reading takes longer.',
            partial(_step, names=("memory", "compute")),
        ),
        Mistake(
            "You return only the seconds; return the pair (seconds, bound).",
            partial(_step, returned=lambda seconds, bound: seconds, names=("compute", "memory")),
        ),
        Mistake(
            "The order of your pair is wrong: it must be (seconds, bound).",
            partial(_step, returned=lambda seconds, bound: (bound, seconds)),
        ),
    ),
)


# 0.6 ------------------------------------------------------------------------------------------------------------------
def decode_floor_ms(config: GPTJConfig, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    """The reference solution of exercise 0.6."""
    weights = (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes
    cache = config.kv_bytes_per_token(element_bytes) * batch * length
    return 1e3 * (weights + cache) / bytes_per_second


def _floor(
    config: GPTJConfig,
    batch: int,
    length: int,
    element_bytes: int,
    bytes_per_second: float,
    *,
    embedding: bool = False,
    weights_in_bytes: bool = True,
    weights_read: Callable[[int], int] = lambda batch: 1,
    tokens: Callable[[int, int], int] = lambda batch, length: batch * length,
    units_in_second: float = 1e3,
    shared_by: Callable[[int], int] = lambda batch: 1,
) -> float:
    """The time of exercise 0.6, with an option for each step of the calculation.

    A known mistake sets some options to wrong values.
    """
    parameters = config.parameter_count - (0 if embedding else config.vocab_size * config.hidden_size)
    weights = parameters * (element_bytes if weights_in_bytes else 1) * weights_read(batch)
    cache = config.kv_bytes_per_token(element_bytes) * tokens(batch, length)
    return units_in_second * (weights + cache) / bytes_per_second / shared_by(batch)


DECODE_FLOOR_MS_ANSWER = Answer(
    exercise=DECODE_FLOOR_MS,
    reference=decode_floor_ms,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The step does not read the whole embedding table: it looks up one row for each sequence. Leave the table out.",
            partial(_floor, embedding=True),
        ),
        Mistake("That is seconds; return milliseconds.", partial(_floor, units_in_second=1.0)),
        Mistake(
            "You count the weights, not their bytes: each weight has element_bytes bytes.",
            partial(_floor, weights_in_bytes=False),
        ),
        Mistake(
            "The cache is missing: the step also reads the keys and values of every sequence.",
            partial(_floor, tokens=lambda batch, length: 0),
        ),
        Mistake(
            "Each sequence of the batch has its own cache: multiply the bytes of the cache by batch.",
            partial(_floor, tokens=lambda batch, length: length),
        ),
        Mistake(
            "The cache holds `length` tokens for each sequence, but you count only one token: multiply the bytes of the cache "
            "by length.",
            partial(_floor, tokens=lambda batch, length: batch),
        ),
        Mistake(
            "You read the weights once for each sequence, but a step reads them once for the whole batch: that is why "
            "batching pays off.",
            partial(_floor, weights_read=lambda batch: batch, shared_by=lambda batch: 1),
        ),
        Mistake(
            "You divide by the batch, which gives the time per token; return the time of the whole step.",
            partial(_floor, shared_by=lambda batch: batch),
        ),
    ),
)

ANSWERS = (
    PARAMETER_COUNT_ANSWER,
    WEIGHT_GIB_ANSWER,
    KV_CACHE_BYTES_ANSWER,
    GPUS_NEEDED_ANSWER,
    ROOFLINE_TIME_ANSWER,
    DECODE_FLOOR_MS_ANSWER,
)
