"""Exercises 8.1 and 8.2: the size of weights with few bits and 2:4 sparsity, and the largest batch that fits."""

from __future__ import annotations

import random

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise

GPT_3 = 175_000_000_000


# 8.1 ------------------------------------------------------------------------------------------------------------------
def _size_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    sizes = [GPT_3, 8 * draw.randrange(10**6, 10**9), 8 * draw.randrange(10**9, 10**11)]
    cases = []
    for size in sizes:
        for bits, group in ((16, 0), (8, 0), (4, draw.choice([16, 32, 64, 128])), (8, draw.choice([24, 48, 256]))):
            for sparse in (False, True):
                scales = f"groups of {group}" if group else "no scales (group_size 0)"
                words = f"{size:,} weights of {bits} bits, {scales}, {'2:4 sparse' if sparse else 'dense'}"
                cases.append(Case(words, (size, bits, sparse, group)))
    return cases


STORED_GIB = Exercise(
    name="lab08.stored_gib",
    lab="08",
    number="8.1",
    title="What pruning and quantization leave",
    function="stored_gib",
    statement=(
        "Return the size of a model with `parameters` weights in **GiB** ($2^{30}$ bytes). Each stored value has `bits` bits. If "
        "`group_size` is not 0, every `group_size` stored values share one scale of 16 bits.\n\nIf `sparse`, only 2 of each 4 "
        "weights are stored (**2:4 sparsity**), and each stored value has an index of 2 bits, which says where it was."
    ),
    points=10,
    minutes=6,
    difficulty=2,
    core=True,
    cases=_size_cases,
    hints=(
        "How many values are stored, and how many bits belong to each of them?",
        "To the bits of a value, add its share of a scale, and 2 bits for its index if the model is sparse. A sparse model "
        "stores half of its weights.",
        "each = bits + (16 / group_size if group_size else 0)",
    ),
)


# 8.2 ------------------------------------------------------------------------------------------------------------------
def _batch_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    models = {"GPT 20B": (44, 6144, 40_500_000_000), "GPT 175B": (96, 12288, 350_000_000_000)}
    for number in range(3):
        models[f"random model {number + 1}"] = (
            draw.randrange(9, 60),
            96 * draw.randrange(9, 50),
            draw.randrange(10**9, 10**11),
        )
    for label, (layers, hidden, weights) in models.items():
        model = {"layers": layers, "hidden": hidden, "weight_bytes": weights}
        for shards in draw.sample([4, 6, 8, 12, 16], 2):
            room = weights / shards + draw.uniform(5e9, 6e10)
            gpu, reserve = int(room / 0.8), draw.uniform(0.05, 0.15)
            tokens, element = draw.randrange(30, 400), draw.choice([2, 4])
            words = f"{label} on {shards} GPUs with {gpu / 1e9:.0f} GB, {tokens} tokens of {element} bytes a number"
            cases.append(Case(words, (model, gpu, reserve, shards, tokens, element)))
    first = {"layers": 96, "hidden": 12288, "weight_bytes": GPT_3 * 2}
    cases.append(Case("GPT 175B on 4 GPUs with 80 GB: nothing is left", (first, 80 * 10**9, 0.1, 4, 2048, 2)))
    return cases


LARGEST_BATCH = Exercise(
    name="lab08.largest_batch",
    lab="08",
    number="8.2",
    title="The largest batch",
    function="largest_batch",
    statement=(
        "The weights and the cache of a model are divided evenly among `shards` GPUs of `gpu_bytes` each; the fraction "
        '`reserve` of each GPU stays free. In the cache, a token of a sequence has a key and a value in each of `model["layers"]` '
        'layers, each with `model["hidden"]` numbers of `element_bytes` bytes. The weights have `model["weight_bytes"]` bytes. '
        "Return the largest number of sequences of `tokens` tokens that fit; 0 if none fits."
    ),
    points=12,
    minutes=7,
    difficulty=2,
    core=True,
    cases=_batch_cases,
    hints=(
        "Look at one GPU. What is left of its memory, and how much does one sequence take?",
        "What is left: the usable part of the memory without this GPU's share of the weights. A sequence takes its cache, divided "
        "by the number of shards. Only whole sequences count.",
        "room = gpu_bytes * (1 - reserve) - model['weight_bytes'] / shards",
    ),
)
EXERCISES = (STORED_GIB, LARGEST_BATCH)
