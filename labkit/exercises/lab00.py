"""Lab 00, Class environment: calculations of memory and time that show whether a model can run on a machine, and how fast."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.shapes import bare, some_configs
from labkit.plurals import counted

BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}


# 0.1 ------------------------------------------------------------------------------------------------------------------
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
    hints=(
        "Write one line for a block, and one for everything outside the blocks.",
        "A layer norm has 2h parameters. The MLP has two matrices of h x i numbers, one bias of i numbers and one bias of h "
        "numbers.",
        "v*h + layers * (4*h*h + 2*h*i + i + h + 2*h) + 2*h + h*v + v",
    ),
)


# 0.2 ------------------------------------------------------------------------------------------------------------------
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
    core=True,
    cases=_weight_cases,
    hints=(
        "First find the bits of one weight, then multiply.",
        "A group of g int4 weights takes 4*g bits, and its scale takes 16 more: that is 4 + 16/g bits per weight.",
        "bits = {'fp32': 32, 'fp16': 16, 'bf16': 16, 'int8': 8, 'int4': 4 + 16 / group_size}[precision]",
    ),
)


# 0.3 ------------------------------------------------------------------------------------------------------------------
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
        Case(
            f"{label}, {counted(len(lengths), 'sequence')}, {counted(size, 'byte')} per element", (bare(config), lengths, size)
        )
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
    core=True,
    cases=_cache_cases,
    hints=(
        "Start with one token in one layer.",
        "One token in one layer: 2 * hidden_size * element_bytes bytes.",
        "2 * config.num_layers * config.hidden_size * element_bytes * sum(lengths)",
    ),
)


# 0.4 ------------------------------------------------------------------------------------------------------------------
def _gpu_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(350e9, 80e9, 0.2), (12.1e9, 80e9, 0.3), (350e9, 80e9, 0.0), (1060e9, 80e9, 0.1), (160e9, 80e9, 0.0)]
    rows += [(draw.uniform(1e9, 2e12), draw.choice([16e9, 24e9, 40e9, 80e9]), draw.uniform(0, 0.5)) for _ in range(8)]
    return [Case(f"{w / 1e9:.0f} GB of weights, {g / 1e9:.0f} GB per GPU, {r:.0%} kept free", (w, g, r)) for w, g, r in rows]


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
    core=True,
    cases=_gpu_cases,
    hints=(
        "In a loop, try n = 1, then 2, then 4, until the weights fit.",
        "The memory for weights on each GPU is gpu_bytes * (1 - reserve).",
        "n = 1, then: while weight_bytes / n > gpu_bytes * (1 - reserve): n *= 2",
    ),
)


# 0.5 ------------------------------------------------------------------------------------------------------------------
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
    core=True,
    cases=_roofline_cases,
    hints=(
        "Two divisions give two times.",
        "The seconds for arithmetic are flops / flops_per_second. The seconds for reading are bytes_read / bytes_per_second.",
        "return max(compute, memory), 'memory' if memory >= compute else 'compute'",
    ),
)


# 0.6 ------------------------------------------------------------------------------------------------------------------
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
        "table: do not count them. Return the shortest possible time of the step in **milliseconds** if memory is read at "
        "`bytes_per_second`. You may use `config.parameter_count` and `config.kv_bytes_per_token(element_bytes)`."
    ),
    points=15,
    minutes=10,
    difficulty=3,
    core=True,
    cases=_floor_cases,
    hints=(
        "Add the bytes of the weights and the bytes of the cache, then divide by the bytes per second.",
        "Bytes of the weights: (parameter_count - vocab_size * hidden_size) * element_bytes. Bytes of the cache: "
        "kv_bytes_per_token * batch * length.",
        "return 1000 * (weights + cache) / bytes_per_second",
    ),
)
EXERCISES = (PARAMETER_COUNT, WEIGHT_GIB, KV_CACHE_BYTES, GPUS_NEEDED, ROOFLINE_TIME, DECODE_FLOOR_MS)
