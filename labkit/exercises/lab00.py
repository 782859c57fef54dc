"""Lab 00, Class environment: the arithmetic of memory and time that decides whether and how fast a model runs."""

from __future__ import annotations

import math
import random

from labkit.config import GPTJConfig
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.shapes import Shape, bare, some_configs

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}


# 0.1 ------------------------------------------------------------------------------------------------------------------
def parameter_count(config: GPTJConfig | Shape) -> int:
    """The reference of exercise 0.1."""
    h, inner, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    block = 4 * h * h + (h * inner + inner) + (inner * h + h) + 2 * h
    return vocab * h + config.num_layers * block + 2 * h + (h * vocab + vocab)


def _tied_head(config: GPTJConfig | Shape) -> int:
    return parameter_count(config) - config.hidden_size * config.vocab_size - config.vocab_size


def _attention_biases(config: GPTJConfig | Shape) -> int:
    return parameter_count(config) + config.num_layers * 4 * config.hidden_size


def _two_norms(config: GPTJConfig | Shape) -> int:
    return parameter_count(config) + config.num_layers * 2 * config.hidden_size


def _no_final_norm(config: GPTJConfig | Shape) -> int:
    return parameter_count(config) - 2 * config.hidden_size


def _always_four(config: GPTJConfig | Shape) -> int:
    wrong = config.intermediate_size - 4 * config.hidden_size
    return parameter_count(config) - config.num_layers * wrong * (2 * config.hidden_size + 1)


def _no_head_bias(config: GPTJConfig | Shape) -> int:
    return parameter_count(config) - config.vocab_size


PARAMETER_COUNT = Exercise(
    name="lab00.parameter_count",
    lab="00",
    number="0.1",
    title="Count the parameters",
    function="parameter_count",
    statement=(
        "Return the number of parameters of a GPT-J. A block has **one** layer norm (weight and bias), four attention "
        "matrices $h \\times h$ **without** bias, and an MLP $h \\to i \\to h$ with biases. Around the blocks: an embedding "
        "$v \\times h$, a final layer norm, and a head $h \\to v$ with a bias and weights of its own.\n\n"
        "`config` has `hidden_size`, `intermediate_size`, `vocab_size` and `num_layers`."
    ),
    points=10,
    minutes=8,
    difficulty=2,
    cases=lambda seed: [Case(label, (bare(config),)) for label, config in some_configs(seed)],
    reference=parameter_count,
    comparison=Comparison(),
    mistakes=(
        Mistake("GPT-J's head is not tied to the embedding: it has its own h x v weights, and a bias.", _tied_head),
        Mistake("GPT-J's four attention projections have no biases; you count some.", _attention_biases),
        Mistake("A GPT-J block has one layer norm, which feeds attention and MLP alike; you count two.", _two_norms),
        Mistake("One layer norm is missing: the one behind the last block.", _no_final_norm),
        Mistake("The MLP's width is config.intermediate_size, which need not be 4 x hidden_size.", _always_four),
        Mistake("The head has a bias as well: one number for each entry of the vocabulary.", _no_head_bias),
    ),
    hints=(
        "Write one line for a block, and one for everything outside the blocks.",
        "A layer norm has 2h numbers. The MLP has two matrices of h x i, and biases of i and of h numbers.",
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
        "`int4`. With `int4`, every group of `group_size` weights also keeps one scale in fp16; the other precisions keep "
        "nothing else.\n\n$$\\text{GiB} = \\frac{\\text{parameters} \\cdot \\text{bits}}{8 \\cdot 2^{30}}$$"
    ),
    points=10,
    minutes=6,
    difficulty=1,
    cases=_weight_cases,
    reference=weight_gib,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "That is GB (10^9 bytes); GiB are asked for: divide by 2^30.", lambda p, s, g: weight_gib(p, s, g) * 2**30 / 1e9
        ),
        Mistake("The scales of int4 are missing: 16 bits for every group.", lambda p, s, g: p * BITS[s] / 8 / 2**30),
        Mistake("You count bits; a byte has eight of them.", lambda p, s, g: 8 * weight_gib(p, s, g)),
        Mistake(
            "You give int4 a scale for every weight; a whole group shares one.",
            lambda p, s, g: p * (BITS[s] + (16 if s == "int4" else 0)) / 8 / 2**30,
        ),
        Mistake(
            "The scales belong to int4 alone; you add them to every precision.",
            lambda p, s, g: p * (BITS[s] + 16 / g) / 8 / 2**30,
        ),
    ),
    hints=(
        "First find the bits of one weight, then multiply.",
        "A group of g int4 weights takes 4*g bits and 16 more for its scale: 4 + 16/g bits per weight.",
        "bits = {'fp32': 32, 'fp16': 16, 'bf16': 16, 'int8': 8, 'int4': 4 + 16 / group_size}[precision]",
    ),
)


# 0.3 ------------------------------------------------------------------------------------------------------------------
def kv_cache_bytes(config: GPTJConfig | Shape, lengths: list[int], element_bytes: int) -> int:
    """The reference of exercise 0.3."""
    return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes


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
        Case(f"{label}, {len(lengths)} sequences, {size} bytes per element", (bare(config), lengths, size))
        for (label, config), lengths, size in zip(some_configs(seed), batches, (2, 4, 2, 1, 2), strict=True)
    ]


KV_CACHE_BYTES = Exercise(
    name="lab00.kv_cache_bytes",
    lab="00",
    number="0.3",
    title="The size of the cache",
    function="kv_cache_bytes",
    statement=(
        "A running sequence keeps one key and one value for each of its tokens in every layer. Each key and each value has "
        "`hidden_size` numbers of `element_bytes` bytes. Return the bytes of the cache for a batch of sequences with the "
        "given `lengths`. Nothing is padded."
    ),
    points=10,
    minutes=5,
    difficulty=2,
    cases=_cache_cases,
    reference=kv_cache_bytes,
    comparison=Comparison(),
    mistakes=(
        Mistake("That is half of it: the cache keeps a key and a value.", lambda c, n, e: kv_cache_bytes(c, n, e) // 2),
        Mistake(
            "You pad every sequence to the longest one; nothing is padded here, so add the lengths up.",
            lambda c, n, e: kv_cache_bytes(c, [max(n)] * len(n), e),
        ),
        Mistake(
            "Every layer has a cache of its own: multiply by num_layers.",
            lambda c, n, e: kv_cache_bytes(c, n, e) // c.num_layers,
        ),
        Mistake(
            "You count one head; a key has num_heads x head_dim = hidden_size numbers.",
            lambda c, n, e: kv_cache_bytes(c, n, e) // c.num_heads,
        ),
        Mistake(
            "hidden_size holds all heads already; you multiply by num_heads once more.",
            lambda c, n, e: kv_cache_bytes(c, n, e) * c.num_heads,
        ),
        Mistake("That is the number of elements; multiply by element_bytes.", lambda c, n, e: kv_cache_bytes(c, n, 1)),
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


def _gpus_ceil(weight_bytes: float, gpu_bytes: float, reserve: float) -> int:
    return math.ceil(weight_bytes / (gpu_bytes * (1 - reserve)))


def _gpus_exact(weight_bytes: float, gpu_bytes: float, reserve: float) -> int:
    gpus = 1
    while weight_bytes / gpus >= gpu_bytes * (1 - reserve):
        gpus *= 2
    return gpus


def _gpus_floor(weight_bytes: float, gpu_bytes: float, reserve: float) -> int:
    return int(2 ** max(0, math.floor(math.log2(weight_bytes / (gpu_bytes * (1 - reserve))))))


GPUS_NEEDED = Exercise(
    name="lab00.gpus_needed",
    lab="00",
    number="0.4",
    title="How many GPUs?",
    function="gpus_needed",
    statement=(
        "Tensor parallelism splits the weights evenly over 1, 2, 4, 8, ... GPUs. Return the smallest of these numbers for which "
        "the share of each GPU fits into its memory while the fraction `reserve` of it stays free (for cache and activations)."
        "\n\n$$\\frac{\\text{weight bytes}}{n} \\le \\text{GPU bytes} \\cdot (1 - \\text{reserve})$$"
    ),
    points=10,
    minutes=6,
    difficulty=2,
    cases=_gpu_cases,
    reference=gpus_needed,
    comparison=Comparison(),
    mistakes=(
        Mistake("Only powers of two divide the heads evenly: round up to 1, 2, 4, 8, ...", _gpus_ceil),
        Mistake(
            "The reserve is not kept free: a GPU can give (1 - reserve) of its memory.", lambda w, g, r: gpus_needed(w, g, 0)
        ),
        Mistake("A share that fills what may be used to the last byte still fits: compare with >, not >=.", _gpus_exact),
        Mistake("You round down; the share of each GPU must fit, so round up.", _gpus_floor),
        Mistake(
            "That is how many GPUs the reserve would fill; 1 - reserve is what weights may take.",
            lambda w, g, r: gpus_needed(w, g, 1 - r) if r else gpus_needed(w, g, 0),
        ),
    ),
    hints=(
        "Try 1, then 2, then 4 in a loop until it fits.",
        "A GPU has gpu_bytes * (1 - reserve) for weights.",
        "n = 1, then: while weight_bytes / n > gpu_bytes * (1 - reserve): n *= 2",
    ),
)


# 0.5 ------------------------------------------------------------------------------------------------------------------
def roofline_time(flops: float, bytes_read: float, flops_per_second: float, bytes_per_second: float) -> tuple[float, str]:
    """The reference of exercise 0.5."""
    compute, memory = flops / flops_per_second, bytes_read / bytes_per_second
    return max(compute, memory), "memory" if memory >= compute else "compute"


def _swapped(flops: float, bytes_read: float, flops_per_second: float, bytes_per_second: float) -> tuple[float, str]:
    seconds, bound = roofline_time(flops, bytes_read, flops_per_second, bytes_per_second)
    return seconds, "compute" if bound == "memory" else "memory"


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
        "A step does `flops` operations and reads `bytes_read` bytes. At best, arithmetic and reading overlap completely, so "
        'the step takes as long as the slower of the two. Return the pair (seconds, bound), where bound is `"memory"` or '
        '`"compute"`.'
    ),
    points=10,
    minutes=5,
    difficulty=2,
    cases=_roofline_cases,
    reference=roofline_time,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You add the two times; they overlap, so the slower one counts alone.",
            lambda f, b, c, m: (f / c + b / m, roofline_time(f, b, c, m)[1]),
        ),
        Mistake(
            "The slower of the two binds; you take the faster.",
            lambda f, b, c, m: (min(f / c, b / m), roofline_time(f, b, c, m)[1]),
        ),
        Mistake("The name of the bound is the wrong way round: the longer time is the one that binds.", _swapped),
        Mistake(
            "You return the seconds alone; the pair (seconds, bound) is asked for.",
            lambda f, b, c, m: roofline_time(f, b, c, m)[0],
        ),
    ),
    hints=(
        "Two divisions give two times.",
        "Seconds of arithmetic: flops / flops_per_second. Seconds of reading: bytes_read / bytes_per_second.",
        "return max(compute, memory), 'memory' if memory >= compute else 'compute'",
    ),
)


# 0.6 ------------------------------------------------------------------------------------------------------------------
def decode_floor_ms(config: GPTJConfig, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    """The reference of exercise 0.6."""
    weights = (config.parameter_count - config.vocab_size * config.hidden_size) * element_bytes
    cache = config.kv_bytes_per_token(element_bytes) * batch * length
    return 1e3 * (weights + cache) / bytes_per_second


def _with_embedding(config: GPTJConfig, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    extra = config.vocab_size * config.hidden_size * element_bytes
    return decode_floor_ms(config, batch, length, element_bytes, bytes_per_second) + 1e3 * extra / bytes_per_second


def _one_sequence_cache(config: GPTJConfig, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    return decode_floor_ms(config, 1, length, element_bytes, bytes_per_second)


def _weights_for_each(config: GPTJConfig, batch: int, length: int, element_bytes: int, bytes_per_second: float) -> float:
    return batch * decode_floor_ms(config, 1, length, element_bytes, bytes_per_second)


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
        "One decode step makes one token for each of `batch` sequences with `length` tokens in the cache. It reads every weight "
        "once, except the embedding table (it needs only a few of its rows), and every key and value in the cache. Return the "
        "least time in **milliseconds** that this takes at `bytes_per_second`. You may use `config.parameter_count` and "
        "`config.kv_bytes_per_token(element_bytes)`."
    ),
    points=15,
    minutes=10,
    difficulty=3,
    cases=_floor_cases,
    reference=decode_floor_ms,
    comparison=Comparison(),
    mistakes=(
        Mistake("The embedding table is not read whole: a step looks up one row a sequence. Leave it out.", _with_embedding),
        Mistake("That is seconds; milliseconds are asked for.", lambda *a: decode_floor_ms(*a) / 1e3),
        Mistake(
            "The cache is missing: every sequence's keys and values are read, too.",
            lambda c, b, n, e, m: decode_floor_ms(c, 0, n, e, m),
        ),
        Mistake("Each sequence of the batch has a cache of its own: multiply the cache by batch.", _one_sequence_cache),
        Mistake(
            "The weights are read once for the whole batch, not once for each sequence: that is why batching pays.",
            _weights_for_each,
        ),
        Mistake(
            "You divide by the batch: that is the time a token costs, the time of the step is asked for.",
            lambda c, b, n, e, m: decode_floor_ms(c, b, n, e, m) / b,
        ),
    ),
    hints=(
        "Bytes of weights plus bytes of cache, divided by bytes per second.",
        "Weights: (parameter_count - vocab_size * hidden_size) * element_bytes. Cache: kv_bytes_per_token * batch * length.",
        "return 1000 * (weights + cache) / bytes_per_second",
    ),
)

EXERCISES = (PARAMETER_COUNT, WEIGHT_GIB, KV_CACHE_BYTES, GPUS_NEEDED, ROOFLINE_TIME, DECODE_FLOOR_MS)
