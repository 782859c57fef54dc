"""Lab 01, Hugging Face baseline: how to time correctly, with separate times for prefill and decode, and how far a step is from
the limit of the hardware.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.config import GPTJConfig
from labkit.exercises.async_device import AsyncDevice
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.counted_model import CountedModel
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab00 import decode_floor_ms
from labkit.exercises.shapes import some_configs
from labkit.plurals import counted

Call = Callable[[], Any]


# 1.1 ------------------------------------------------------------------------------------------------------------------
def time_runs(call: Call, synchronize: Call, clock: Callable[[], float], warmup: int, runs: int) -> list[float]:
    """The reference of exercise 1.1."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(runs):
        synchronize()
        before = clock()
        call()
        synchronize()
        times.append(clock() - before)
    return times


def _timer(*, before: bool = True, after: bool = True, drop: bool = True, first: bool = False, whole: bool = False) -> Any:
    """A wrong timing function. The options say when it waits, whether it drops the warm-up runs, and what it returns."""

    def faulty(call: Call, synchronize: Call, clock: Callable[[], float], warmup: int, runs: int) -> Any:
        times = []
        for index in range(warmup + runs):
            if before:
                synchronize()
            started = clock()
            call()
            if after:
                synchronize()
            if index >= warmup or not drop:
                times.append(clock() - started)
        return sum(times) if whole else times[:runs] if first else times

    return faulty


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
    cases=_timing_cases,
    reference=time_runs,
    comparison=Comparison(relative=1e-9),
    mistakes=(
        Mistake(
            "You measure only the launch, not the work: call synchronize() after call(), before you read the clock.",
            _timer(before=False, after=False),
        ),
        Mistake(
            "Your first counted run also contains work of the warm-up: call synchronize() before you start the clock, too.",
            lambda call, synchronize, clock, warmup, runs: (
                [call() for _ in range(warmup)],
                _timer(before=False)(call, synchronize, clock, 0, runs),
            )[1],
        ),
        Mistake("Your list contains the warm-up runs, which must not be counted.", _timer(drop=False)),
        Mistake(
            "You count the first runs, which are cold, and drop the later ones; drop the first runs instead.",
            _timer(drop=False, first=True),
        ),
        Mistake(
            "You return one total; return a list with the seconds of each run, so that a median can be computed.",
            _timer(whole=True),
        ),
    ),
    hints=(
        "Which work is still in the queue when you read the clock before a run, and when you read it after the run?",
        "A counted run has this order: synchronize, clock, call, synchronize, clock.",
        "for _ in range(runs): synchronize(); t = clock(); call(); synchronize(); times.append(clock() - t)",
    ),
)


# 1.2 ------------------------------------------------------------------------------------------------------------------
def greedy_decode(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    """The reference of exercise 1.2."""
    return _decode(model, input_ids, new_tokens, position=-1)


def _decode(model: Any, input_ids: Tensor, new_tokens: int, position: int) -> Tensor:
    """Greedy decoding. The first new token comes from the logits at position `position` of the prompt."""
    out = model(input_ids, use_cache=True)
    token = out.logits[:, position].argmax(-1, keepdim=True)
    made = [token]
    for _ in range(new_tokens - 1):
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        made.append(token)
    return torch.cat(made, dim=1)


def _no_cache(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    ids = input_ids
    for _ in range(new_tokens):
        ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids[:, input_ids.shape[1] :]


def _with_prompt(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    return torch.cat((input_ids, greedy_decode(model, input_ids, new_tokens)), dim=1)


def _one_too_many(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    return greedy_decode(model, input_ids, new_tokens + 1)


def _first_position(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    return _decode(model, input_ids, new_tokens, position=0)


def _forgotten_past(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    token = model(input_ids, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
    made = [token]
    for _ in range(new_tokens - 1):
        token = model(token, use_cache=True).logits[:, -1].argmax(-1, keepdim=True)
        made.append(token)
    return torch.cat(made, dim=1)


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
        "prompt in **one** call (prefill). Then pass **one** token in each call, together with the cache (decode). `out = "
        "model(ids, past_key_values=..., use_cache=True)` has `out.logits` `[batch, fed, vocab]` and `out.past_key_values`. "
        "The check counts the tokens that you pass in each call."
    ),
    points=20,
    minutes=15,
    difficulty=3,
    cases=_decode_cases,
    reference=greedy_decode,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The tokens are right, but you run the whole text again for every token; pass past_key_values and only the newest "
            "token.",
            _no_cache,
        ),
        Mistake("You return the prompt, too; return only the new tokens.", _with_prompt),
        Mistake(
            "You return one token too many. The first new token already comes from the logits of the prefill.", _one_too_many
        ),
        Mistake(
            "You take the logits of another position, but the next token comes from the logits of the last position.",
            _first_position,
        ),
        Mistake("You pass one token without past_key_values, so the model sees only that token.", _forgotten_past),
    ),
    hints=(
        "The first new token comes from the logits of the prefill.",
        "In the loop, the model gets only the newest token, and the past_key_values that its last call returned.",
        "token = out.logits[:, -1].argmax(-1, keepdim=True) has the shape [batch, 1]: store it, and pass it to the next call.",
    ),
    observe=lambda case, value: {"tokens": value, "tokens fed to each call": list(case.args[0].fed)},
)


# 1.3 ------------------------------------------------------------------------------------------------------------------
def positions_processed(prompt_tokens: int, new_tokens: int, cached: bool) -> int:
    """The reference of exercise 1.3."""
    if cached:
        return prompt_tokens + new_tokens - 1
    return sum(prompt_tokens + made for made in range(new_tokens))


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
    cases=_position_cases,
    reference=positions_processed,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The last new token is never passed to the model: with the cache, one position fewer runs.",
            lambda p, n, c: p + n if c else positions_processed(p, n, c),
        ),
        Mistake(
            "Without the cache the text gets longer with every call, but you count only the prompt each time.",
            lambda p, n, c: positions_processed(p, n, c) if c else p * n,
        ),
        Mistake(
            "Without the cache, the first call runs only the prompt. So the calls run p, p+1, ..., p+n-1 positions.",
            lambda p, n, c: positions_processed(p, n, c) if c else sum(p + made for made in range(1, n + 1)),
        ),
        Mistake(
            "With the cache, only the first call runs the prompt, but you count the prompt in every call.",
            lambda p, n, c: p * n if c else positions_processed(p, n, c),
        ),
        Mistake("You exchanged the two cases of `cached`.", lambda p, n, c: positions_processed(p, n, not c)),
    ),
    hints=(
        "Write down how many tokens calls 1, 2 and 3 get, with and without the cache.",
        "With: p, 1, 1, ... (n calls). Without: p, p+1, p+2, ... (n calls).",
        "cached: p + n - 1. Otherwise: n*p + n*(n-1)//2.",
    ),
)


# 1.4 ------------------------------------------------------------------------------------------------------------------
def cache_bytes(cache: list[tuple[Tensor, Tensor]]) -> int:
    """The reference of exercise 1.4."""
    return sum(t.numel() * t.element_size() for pair in cache for t in pair)


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
        "total number of bytes of all these tensors. The layers may differ in length and dtype."
    ),
    points=10,
    minutes=5,
    difficulty=1,
    cases=_bytes_cases,
    reference=cache_bytes,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You return the number of elements, but each element takes several bytes.",
            lambda cache: sum(t.numel() for pair in cache for t in pair),
        ),
        Mistake("You count only the keys.", lambda cache: sum(k.numel() * k.element_size() for k, _ in cache)),
        Mistake(
            "You count the first layer and multiply, but the layers may differ.",
            lambda cache: len(cache) * cache_bytes(cache[:1]),
        ),
        Mistake(
            "You count 4 bytes per element, but fp16 and bf16 take 2.",
            lambda cache: sum(4 * t.numel() for pair in cache for t in pair),
        ),
        Mistake("You return bits; return bytes: a byte has eight bits.", lambda cache: 8 * cache_bytes(cache)),
    ),
    hints=(
        "A tensor can tell how many elements it has, and how many bytes one element takes.",
        "The bytes of a tensor are numel, its number of elements, times element_size. Add up all keys and values.",
        "sum(t.numel() * t.element_size() for pair in cache for t in pair)",
    ),
)


# 1.5 ------------------------------------------------------------------------------------------------------------------
def throughput(
    batch: int, prompt_tokens: int, new_tokens: int, prefill_seconds: list[float], decode_seconds: list[float]
) -> dict[str, float]:
    """The reference of exercise 1.5."""
    decode = statistics.median(decode_seconds)
    return {
        "prefill": batch * prompt_tokens / statistics.median(prefill_seconds),
        "decode": batch * (new_tokens - 1) / decode,
        "per user": (new_tokens - 1) / decode,
    }


def _throughput_variant(
    decoded: int = -1, middle: Callable[[list[float]], float] = statistics.median, prompts: bool = True
) -> Any:
    def variant(batch: int, p: int, n: int, prefill: list[float], decode: list[float]) -> dict[str, float]:
        tokens = n + decoded
        return {
            "prefill": (batch if prompts else 1) * p / middle(prefill),
            "decode": batch * tokens / middle(decode),
            "per user": tokens / middle(decode),
        }

    return variant


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
    cases=_throughput_cases,
    reference=throughput,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "You take the mean, which one disturbed run can spoil; take the median.",
            _throughput_variant(middle=statistics.fmean),
        ),
        Mistake(
            "Decode makes new_tokens - 1 tokens, because the prefill makes the first token.", _throughput_variant(decoded=0)
        ),
        Mistake("You take the fastest run; take the median.", _throughput_variant(middle=min)),
        Mistake(
            "With an even number of runs, you take the lower of the two middle values, as torch.median does. Take the mean of "
            "these two values, as statistics.median does.",
            _throughput_variant(middle=statistics.median_low),
        ),
        Mistake(
            "You take the median of the rates; take the median of the seconds first, then divide.",
            _throughput_variant(middle=lambda seconds: 1 / statistics.median([1 / s for s in seconds])),
        ),
        Mistake("The prefill runs the prompts of the whole batch: multiply by batch.", _throughput_variant(prompts=False)),
        Mistake(
            "You count the tokens of the whole batch, but a user gets only the tokens of one sequence.",
            lambda b, p, n, x, y: throughput(b, p, n, x, y) | {"per user": throughput(b, p, n, x, y)["decode"]},
        ),
    ),
    hints=(
        "statistics.median takes a list.",
        "Prefill: batch * prompt_tokens tokens. For decode, count batch * (new_tokens - 1) tokens.",
        "'per user' is 'decode' divided by batch.",
    ),
)


# 1.6 ------------------------------------------------------------------------------------------------------------------
def roofline_fraction(
    config: GPTJConfig, batch: int, length: int, element_bytes: int, step_seconds: float, bytes_per_second: float
) -> float:
    """The reference of exercise 1.6."""
    return decode_floor_ms(config, batch, length, element_bytes, bytes_per_second) / 1e3 / step_seconds


def _fraction_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    cases = []
    for label, config in some_configs(seed):
        batch, length, size = draw.choice([2, 5, 8]), draw.randrange(1, 2000), draw.choice([2, 4])
        rate = 10 ** draw.uniform(10, 12.5)
        seconds = decode_floor_ms(config, batch, length, size, rate) / 1e3 * draw.uniform(1.1, 9)
        cases.append(Case(f"{label}; batch {batch}, length {length}", (config, batch, length, size, seconds, rate)))
    return cases


def _fraction_with_embedding(c: GPTJConfig, b: int, n: int, e: int, s: float, m: float) -> float:
    return roofline_fraction(c, b, n, e, s, m) + c.vocab_size * c.hidden_size * e / m / s


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
    reference=roofline_fraction,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "Your fraction is upside down: divide the shortest possible time by the measured time.",
            lambda *a: 1 / roofline_fraction(*a),
        ),
        Mistake("A step does not read the whole embedding table; leave it out as in exercise 0.6.", _fraction_with_embedding),
        Mistake("The cache is missing from your bytes.", lambda c, b, n, e, s, m: roofline_fraction(c, 0, n, e, s, m)),
        Mistake("You return a percentage; return a fraction, where 1.0 is perfect.", lambda *a: 100 * roofline_fraction(*a)),
        Mistake(
            "You count the cache of one sequence, but each sequence of the batch has its own cache.",
            lambda c, b, n, e, s, m: roofline_fraction(c, 1, n, e, s, m),
        ),
        Mistake("You mix milliseconds and seconds.", lambda *a: 1000 * roofline_fraction(*a)),
    ),
    hints=(
        "Exercise 0.6 computes the shortest possible time; divide it by the measured time.",
        "least seconds = (weight bytes + cache bytes) / bytes_per_second",
        "return least_seconds / step_seconds",
    ),
)

EXERCISES = (TIME_RUNS, GREEDY_DECODE, POSITIONS_PROCESSED, CACHE_BYTES, THROUGHPUT, ROOFLINE_FRACTION)
