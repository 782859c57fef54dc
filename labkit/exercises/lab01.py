"""Lab 01, Hugging Face baseline: how to time correctly, with separate times for prefill and decode, and how far a step is from
the limit of the hardware.
"""

from __future__ import annotations

import random

import torch

from labkit.exercises.async_device import AsyncDevice
from labkit.exercises.case import Case
from labkit.exercises.counted_model import CountedModel
from labkit.exercises.exercise import Exercise
from labkit.exercises.shapes import some_configs
from labkit.plurals import counted


# 1.1 ------------------------------------------------------------------------------------------------------------------
def _timing_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for warmup, runs in ((3, 5), (4, 1), (3, 17), (draw.randrange(3, 9), draw.randrange(2, 12))):
        device = AsyncDevice(draw.randrange(10**6), step_seconds=draw.uniform(1e-3, 5e-3))
        cases.append(
            Case(f"{warmup} warm-up and {runs} counted runs", (device.launch, device.synchronize, device.clock, warmup, runs))
        )
    return cases


TIME_RUNS = Exercise(
    name="lab01.time_runs",
    lab="01",
    number="1.1",
    title="A clock that cannot be fooled",
    function="time_runs",
    statement=(
        "As on a GPU, `call()` returns before its work is done. Call `call()` `warmup` times without counting, then `runs` "
        "times with counting, and return a list with the seconds of each counted run. Read the time with `clock()`; "
        "`synchronize()` waits until all launched work is done. Each time must contain all the work of its own run, and no "
        "work of an earlier run."
    ),
    points=15,
    minutes=10,
    difficulty=3,
    core=True,
    cases=_timing_cases,
    hints=(
        "Which work is still in the queue when you read the clock before a run, and when you read it after the run?",
        "A counted run has this order: synchronize, clock, call, synchronize, clock.",
        "for _ in range(runs): synchronize(); t = clock(); call(); synchronize(); times.append(clock() - t)",
    ),
)


# 1.2 ------------------------------------------------------------------------------------------------------------------
def _decode_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    cases = []
    for batch, length, new in ((1, 1, 3), (3, 7, 5), (2, draw.randrange(2, 19), draw.randrange(2, 9)), (1, 12, 1)):
        model = CountedModel(draw.randrange(10**6))
        ids = torch.randint(model.vocab_size, (batch, length), generator=generator)
        cases.append(Case(f"batch {batch}, prompt of {length}, {new} new tokens", (model, ids, new)))
    return cases


GREEDY_DECODE = Exercise(
    name="lab01.greedy_decode",
    lab="01",
    number="1.2",
    title="Prefill once, then decode",
    function="greedy_decode",
    statement=(
        "Continue `input_ids` `[batch, length]` greedily and return only the new tokens, `[batch, new_tokens]`. Run the whole "
        "prompt in **one** call without a cache (prefill). Then pass **one** token in each call, together with the cache "
        "(decode). `out = model(ids, past_key_values=..., use_cache=True)` has `out.logits` `[batch, tokens in this call, "
        "vocab]` and `out.past_key_values`, the cache for the next call. The check counts the tokens that you pass in each call."
    ),
    points=20,
    minutes=15,
    difficulty=3,
    core=True,
    cases=_decode_cases,
    hints=(
        "The first new token comes from the logits of the prefill.",
        "In the loop, the model gets only the newest token, and the past_key_values that its last call returned.",
        "token = out.logits[:, -1].argmax(-1, keepdim=True) has the shape [batch, 1]: store it, and pass it to the next call.",
    ),
    observe=lambda case, value: {"tokens": value, "tokens fed to each call": list(case.args[0].fed)},
)


# 1.3 ------------------------------------------------------------------------------------------------------------------
def _position_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    rows = [(1, 1), (128, 64), (7, 3), *((draw.randrange(1, 2000), draw.randrange(1, 500)) for _ in range(4))]
    return [Case(f"prompt {p}, {n} new, cache {'on' if c else 'off'}", (p, n, c)) for p, n in rows for c in (True, False)]


POSITIONS_PROCESSED = Exercise(
    name="lab01.positions_processed",
    lab="01",
    number="1.3",
    title="Predict what the cache saves",
    function="positions_processed",
    statement=(
        "A prompt of `prompt_tokens` is continued by `new_tokens`. Return how many positions run through the model in total. "
        "With the cache (`cached=True`) each position runs once. Without it, every call runs the whole text so far. The last "
        "new token does not run: it is never passed to the model."
    ),
    points=10,
    minutes=6,
    difficulty=2,
    core=True,
    cases=_position_cases,
    hints=(
        "Write down how many tokens calls 1, 2 and 3 get, with and without the cache.",
        "With: p, 1, 1, ... (n calls). Without: p, p+1, p+2, ... (n calls).",
        "cached: p + n - 1. Otherwise: n*p + n*(n-1)//2.",
    ),
)


# 1.4 ------------------------------------------------------------------------------------------------------------------
def _bytes_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float32):
        shape = (draw.choice([1, 3]), draw.choice([1, 4, 5]), draw.randrange(1, 60), draw.choice([6, 32]))
        layers = draw.randrange(1, 8)
        cache = [(torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)) for _ in range(layers)]
        cases.append(Case(f"{counted(layers, 'layer')} of {shape}, {dtype}", (cache,)))
    first, last = torch.zeros(1, 2, 9, 8), torch.zeros(1, 2, 11, 8, dtype=torch.float16)[:, :, 2:7]
    return [*cases, Case("layers of different lengths and dtypes", ([(first, first.clone()), (last, last.clone())],))]


CACHE_BYTES = Exercise(
    name="lab01.cache_bytes",
    lab="01",
    number="1.4",
    title="Weigh the real cache",
    function="cache_bytes",
    statement=(
        "`cache` is a list with one pair of tensors (keys, values) for each layer, taken from `past_key_values`. Return the "
        "total number of bytes in all these tensors. The layers can differ in length and dtype."
    ),
    points=10,
    minutes=5,
    difficulty=1,
    cases=_bytes_cases,
    hints=(
        "A tensor can tell how many elements it has, and how many bytes one element takes.",
        "The bytes of a tensor are numel, its number of elements, times element_size. Add up all keys and values.",
        "sum(t.numel() * t.element_size() for pair in cache for t in pair)",
    ),
)


# 1.5 ------------------------------------------------------------------------------------------------------------------
def _throughput_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for batch, runs in ((1, 5), (8, 4), (3, 1), (draw.randrange(2, 65), 7)):
        p, n = draw.randrange(1, 600), draw.randrange(2, 200)
        prefill = [draw.uniform(0.01, 0.02) for _ in range(runs)]
        decode = [draw.uniform(0.1, 0.2) for _ in range(runs)]
        if runs > 2:
            prefill[draw.randrange(runs)] *= 20
            decode[draw.randrange(runs)] *= 9
        cases.append(Case(f"batch {batch}, prompt {p}, {n} new tokens, {counted(runs, 'run')}", (batch, p, n, prefill, decode)))
    return cases


THROUGHPUT = Exercise(
    name="lab01.throughput",
    lab="01",
    number="1.5",
    title="Tokens per second",
    function="throughput",
    statement=(
        "Given the seconds of several prefills and decodes, return the tokens per second of the **median** run in a "
        "dictionary: "
        '`"prefill"` (prompt tokens of the whole batch), `"decode"` (new tokens of the whole batch) and `"per user"` (new '
        "tokens of one sequence). The prefill already makes the first new token, so decode makes `new_tokens - 1` tokens."
    ),
    points=15,
    minutes=8,
    difficulty=2,
    core=True,
    cases=_throughput_cases,
    hints=(
        "statistics.median takes a list.",
        "Prefill: batch * prompt_tokens tokens. For decode, count batch * (new_tokens - 1) tokens.",
        "'per user' is 'decode' divided by batch.",
    ),
)


# 1.6 ------------------------------------------------------------------------------------------------------------------
def _fraction_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for label, config in some_configs(seed):
        batch, length, size = draw.choice([2, 5, 8]), draw.randrange(1, 2000), draw.choice([2, 4])
        rate = 10 ** draw.uniform(10, 12.5)
        weights = 12 * config.num_layers * config.hidden_size**2  # A rough number: the steps need only be plausible.
        seconds = weights * size / rate * draw.uniform(1.5, 9)
        cases.append(Case(f"{label}; batch {batch}, length {length}", (config, batch, length, size, seconds, rate)))
    return cases


ROOFLINE_FRACTION = Exercise(
    name="lab01.roofline_fraction",
    lab="01",
    number="1.6",
    title="How far from the limit?",
    function="roofline_fraction",
    statement=(
        "A measured decode step took `step_seconds` for `batch` sequences. Each sequence had `length` tokens in the cache. "
        "Return the fraction of the memory limit that the step reaches: the shortest time in which its bytes can be read at "
        "`bytes_per_second`, divided by the measured time. Count the bytes as in exercise 0.6: all weights except the "
        "embedding table, and the whole cache. A fraction of 1.0 is perfect."
    ),
    points=15,
    minutes=5,
    difficulty=2,
    cases=_fraction_cases,
    hints=(
        "Exercise 0.6 computes the shortest possible time; divide it by the measured time.",
        "least seconds = (weight bytes + cache bytes) / bytes_per_second",
        "return least_seconds / step_seconds",
    ),
)
EXERCISES = (TIME_RUNS, GREEDY_DECODE, POSITIONS_PROCESSED, CACHE_BYTES, THROUGHPUT, ROOFLINE_FRACTION)
