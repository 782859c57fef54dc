"""Lab 00, Class environment: arithmetic with memory and time that shows whether a model can run on a machine, and how fast."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from labkit.config import GPTJConfig
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.shapes import Shape, bare, some_configs
from labkit.plurals import counted

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}


# 0.1 ------------------------------------------------------------------------------------------------------------------
def parameter_count(config: GPTJConfig | Shape) -> int:
    """The reference of exercise 0.1."""
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
    """The parameter count of exercise 0.1, with an option for each part. A known mistake sets some options to wrong values."""
    h, vocab = config.hidden_size, config.vocab_size
    inner = 4 * h if always_four else config.intermediate_size
    block = 4 * h * h + 2 * h * inner + norms * norm_parts * h
    block += 4 * h * attention_biases + (inner + h) * mlp_biases
    around = vocab * h + norm_parts * h * final_norm + h * vocab * head_weights + vocab * head_bias
    return config.num_layers * block + around


PARAMETER_COUNT = Exercise(
    name="lab00.parameter_count",
    lab="00",
    number="0.1",
    title="Count the parameters",
    function="parameter_count",
    statement=(
        "Return the number of parameters of a GPT-J. A block has **one** layer norm (weight and bias), four attention "
        "matrices $h \\times h$ **without** bias, and an MLP $h \\to i \\to h$ with biases. The model also has an embedding $v "
        "\\times h$, a final layer norm, and a head $h \\to v$ with its own weights and a bias.\n\n`config` has `hidden_size`, "
        "`intermediate_size`, `vocab_size` and `num_layers`."
    ),
    points=10,
    minutes=8,
    difficulty=2,
    cases=lambda seed: [Case(label, (bare(config),)) for label, config in some_configs(seed)],
    reference=parameter_count,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "GPT-J's head does not share its weights with the embedding: it has its own h x v weights, and a bias.",
            partial(_count, head_weights=False, head_bias=False),
        ),
        Mistake(
            "You count only one matrix of v x h, but the embedding and the head each have their own.",
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
            "Each block has a layer norm, which is missing in your count.", partial(_count, norms=0, attention_biases=False)
        ),
        Mistake(
            "A layer norm has a weight and a bias, 2h numbers in total; you count only one of them.",
            partial(_count, norm_parts=1),
        ),
        Mistake("One layer norm is missing: the final one, after the last block.", partial(_count, final_norm=False)),
        Mistake(
            "The MLP has biases, i + h numbers in each block; they are missing in your count.",
            partial(_count, mlp_biases=False),
        ),
        Mistake(
            "The MLP's width is config.intermediate_size, which need not be 4 x hidden_size.",
            partial(_count, always_four=True),
        ),
        Mistake("The head has a bias as well: one number for each entry of the vocabulary.", partial(_count, head_bias=False)),
    ),
    hints=(
        "Write one line for a block, and one for everything outside the blocks.",
        "A layer norm has 2h parameters. The MLP has two matrices of h x i numbers, one bias of i numbers and one bias of h "
        "numbers.",
        "v*h + layers * (4*h*h + 2*h*i + i + h + 2*h) + 2*h + h*v + v",
    ),
)


# 0.2 ------------------------------------------------------------------------------------------------------------------
def weight_gib(parameters: int, precision: str, group_size: int) -> float:
    """The reference of exercise 0.2."""
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
    """The size of exercise 0.2, with an option for each part. A known mistake sets some options to wrong values."""
    is_scaled = precision == "int4" or scale_for == "group of any precision"
    bits = BITS[precision] + is_scaled * scale_bits / (1 if scale_for == "weight" else group_size)
    return parameters * bits / bits_in_byte / unit


def _weight_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    sizes = [6_050_882_784, 175_000_000_000, draw.randrange(10**6, 10**9), draw.randrange(10**9, 10**12)]
    return [
        Case(f"{size:,} parameters, {precision}, groups of {group}", (size, precision, group))
        for size in sizes
        for precision, group in zip(BITS, draw.sample([16, 32, 48, 64, 128, 256], 5), strict=True)
    ]


WEIGHT_GIB = Exercise(
    name="lab00.weight_gib",
    lab="00",
    number="0.2",
    title="The weights in GiB",
    function="weight_gib",
    statement=(
        "Return the size of the weights in **GiB** ($2^{30}$ bytes). `precision` is `fp32`, `fp16`, `bf16`, `int8` or "
        "`int4`. With `int4`, there is also one fp16 scale for every group of `group_size` weights; the other precisions have "
        "no scales.\n\n$$\\text{GiB} = \\frac{\\text{parameters} \\cdot \\text{bits}}{8 \\cdot 2^{30}}$$"
    ),
    points=10,
    minutes=6,
    difficulty=1,
    cases=_weight_cases,
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
    hints=(
        "First find the bits of one weight, then multiply.",
        "A group of g int4 weights takes 4*g bits, and its scale takes 16 more: that is 4 + 16/g bits per weight.",
        "bits = {'fp32': 32, 'fp16': 16, 'bf16': 16, 'int8': 8, 'int4': 4 + 16 / group_size}[precision]",
    ),
)


# 0.3 ------------------------------------------------------------------------------------------------------------------
def kv_cache_bytes(config: GPTJConfig | Shape, lengths: list[int], element_bytes: int) -> int:
    """The reference of exercise 0.3."""
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
    """The cache size of exercise 0.3, with an option for each part. Each known mistake sets one option to a wrong value."""
    elements = kinds * layers(config.num_layers) * width(config.hidden_size, config.num_heads) * tokens(lengths)
    return elements * (element_bytes if in_bytes else 1)


def _cache_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    batches = [
        [2048],
        [1],
        [draw.randrange(1, 99) for _ in range(5)],
        [7, 300, 1],
        [draw.randrange(1, 2000) for _ in range(33)],
    ]
    return [
        Case(f"{label}, {counted(len(lengths), 'sequence')}, {size} bytes per element", (bare(config), lengths, size))
        for (label, config), lengths, size in zip(some_configs(seed), batches, (2, 4, 2, 1, 2), strict=True)
    ]


KV_CACHE_BYTES = Exercise(
    name="lab00.kv_cache_bytes",
    lab="00",
    number="0.3",
    title="The size of the cache",
    function="kv_cache_bytes",
    statement=(
        "For each token, a sequence stores one key and one value in every layer. Each key and each value has "
        "`hidden_size` numbers of `element_bytes` bytes. Return the number of bytes in the KV cache for a batch of sequences "
        "with the given `lengths`. Nothing is padded."
    ),
    points=10,
    minutes=5,
    difficulty=2,
    cases=_cache_cases,
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
    hints=(
        "Start with one token in one layer.",
        "One token in one layer: 2 * hidden_size * element_bytes bytes.",
        "2 * config.num_layers * config.hidden_size * element_bytes * sum(lengths)",
    ),
)


# 0.4 ------------------------------------------------------------------------------------------------------------------
def gpus_needed(weight_bytes: float, gpu_bytes: float, reserve: float) -> int:
    """The reference of exercise 0.4."""
    gpus = 1
    while weight_bytes / gpus > gpu_bytes * (1 - reserve):
        gpus *= 2
    return gpus


def _gpu_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(350e9, 80e9, 0.2), (12.1e9, 80e9, 0.3), (350e9, 80e9, 0.0), (1060e9, 80e9, 0.1), (160e9, 80e9, 0.0)]
    rows += [(draw.uniform(1e9, 2e12), draw.choice([16e9, 24e9, 40e9, 80e9]), draw.uniform(0, 0.5)) for _ in range(8)]
    return [Case(f"{w / 1e9:.0f} GB of weights, {g / 1e9:.0f} GB per GPU, {r:.0%} kept free", (w, g, r)) for w, g, r in rows]


def _gpus(
    weight_bytes: float,
    gpu_bytes: float,
    reserve: float,
    *,
    rounded: str = "up to a power of two",
    usable: Callable[[float], float] = lambda reserve: 1 - reserve,
) -> int:
    """The number of GPUs of exercise 0.4, with an option for each part. A known mistake sets some options to wrong values."""
    room = gpu_bytes * usable(reserve)
    if rounded == "up":
        return math.ceil(weight_bytes / room)
    if rounded == "down to a power of two":
        return int(2 ** max(0, math.floor(math.log2(weight_bytes / room))))
    gpus = 1
    while weight_bytes / gpus > room or (rounded == "up, even if it fits" and weight_bytes / gpus == room):
        gpus *= 2
    return gpus


GPUS_NEEDED = Exercise(
    name="lab00.gpus_needed",
    lab="00",
    number="0.4",
    title="How many GPUs?",
    function="gpus_needed",
    statement=(
        "Tensor parallelism splits the weights evenly over 1, 2, 4, 8, ... GPUs. Return the smallest of these numbers of GPUs "
        "for which each share fits into a GPU while the fraction `reserve` of its memory stays free (for cache and "
        "activations).\n\n$$\\frac{\\text{weight bytes}}{n} \\le \\text{GPU bytes} \\cdot (1 - \\text{reserve})$$"
    ),
    points=10,
    minutes=6,
    difficulty=2,
    cases=_gpu_cases,
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
    hints=(
        "In a loop, try n = 1, then 2, then 4, until the weights fit.",
        "The memory for weights on each GPU is gpu_bytes * (1 - reserve).",
        "n = 1, then: while weight_bytes / n > gpu_bytes * (1 - reserve): n *= 2",
    ),
)


# 0.5 ------------------------------------------------------------------------------------------------------------------
def roofline_time(flops: float, bytes_read: float, flops_per_second: float, bytes_per_second: float) -> tuple[float, str]:
    """The reference of exercise 0.5."""
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
    """The answer of exercise 0.5, with an option for each part. A known mistake sets some options to wrong values."""
    compute, memory = flops / flops_per_second, bytes_read / bytes_per_second
    return returned(seconds((compute, memory)), names[memory >= compute])


def _roofline_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(12e9, 11.7e9, 300e12, 2e12), (1e15, 11.7e9, 300e12, 2e12)]
    rows += [
        (10 ** draw.uniform(6, 15), 10 ** draw.uniform(6, 12), 10 ** draw.uniform(10, 15), 10 ** draw.uniform(9, 12.5))
        for _ in range(10)
    ]
    return [Case(f"{f:.3g} FLOPs, {b:.3g} bytes, {c:.3g} FLOP/s, {m:.3g} bytes/s", (f, b, c, m)) for f, b, c, m in rows]


ROOFLINE_TIME = Exercise(
    name="lab00.roofline_time",
    lab="00",
    number="0.5",
    title="Memory or compute?",
    function="roofline_time",
    statement=(
        "A step does `flops` floating-point operations and reads `bytes_read` bytes. At best, arithmetic and reading overlap "
        "completely, so the step takes as long as the longer of the two. "
        'Return the pair (seconds, bound), where bound is `"memory"` or `"compute"`.'
    ),
    points=10,
    minutes=5,
    difficulty=2,
    cases=_roofline_cases,
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
    hints=(
        "Two divisions give two times.",
        "The seconds for arithmetic are flops / flops_per_second. The seconds for reading are bytes_read / bytes_per_second.",
        "return max(compute, memory), 'memory' if memory >= compute else 'compute'",
    ),
)


# 0.6 ------------------------------------------------------------------------------------------------------------------
def decode_floor_ms(config: GPTJConfig, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    """The reference of exercise 0.6."""
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
    """The time of exercise 0.6, with an option for each part. A known mistake sets some options to wrong values."""
    parameters = config.parameter_count - (0 if embedding else config.vocab_size * config.hidden_size)
    weights = parameters * (element_bytes if weights_in_bytes else 1) * weights_read(batch)
    cache = config.kv_bytes_per_token(element_bytes) * tokens(batch, length)
    return units_in_second * (weights + cache) / bytes_per_second / shared_by(batch)


def _floor_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [
        (config, draw.choice([1, 3, 8, 33]), draw.choice([1, 100, 2047]), draw.choice([2, 4]), 10 ** draw.uniform(10, 12.5))
        for _, config in some_configs(seed)
    ]
    rows[1] = (rows[1][0], 7, *rows[1][2:])
    labels = [label for label, _ in some_configs(seed)]
    return [Case(f"{label}; batch {row[1]}, length {row[2]}", row) for label, row in zip(labels, rows, strict=True)]


DECODE_FLOOR_MS = Exercise(
    name="lab00.decode_floor_ms",
    lab="00",
    number="0.6",
    title="The floor under a decode step",
    function="decode_floor_ms",
    statement=(
        "One decode step makes one new token for each of `batch` sequences. Each sequence has `length` tokens in the cache. "
        "The step reads every weight once, and every key and value in the cache. It reads only a few rows of the embedding "
        "table: do not count them. Return the least time in **milliseconds** that the step takes if memory is read at "
        "`bytes_per_second`. You may use `config.parameter_count` and `config.kv_bytes_per_token(element_bytes)`."
    ),
    points=15,
    minutes=10,
    difficulty=3,
    cases=_floor_cases,
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
    hints=(
        "Add the bytes of the weights and the bytes of the cache, then divide by the bytes per second.",
        "Bytes of the weights: (parameter_count - vocab_size * hidden_size) * element_bytes. Bytes of the cache: "
        "kv_bytes_per_token * batch * length.",
        "return 1000 * (weights + cache) / bytes_per_second",
    ),
)

EXERCISES = (PARAMETER_COUNT, WEIGHT_GIB, KV_CACHE_BYTES, GPUS_NEEDED, ROOFLINE_TIME, DECODE_FLOOR_MS)
