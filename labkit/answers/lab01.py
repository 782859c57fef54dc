"""The answers to the exercises of lab 01: references, comparisons and known mistakes."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labkit.answers.lab00 import decode_floor_ms
from labkit.config import GPTJConfig
from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab01 import CACHE_BYTES, GREEDY_DECODE, POSITIONS_PROCESSED, ROOFLINE_FRACTION, THROUGHPUT, TIME_RUNS

Call = Callable[[], Any]


# 1.1 ------------------------------------------------------------------------------------------------------------------
def time_runs(call: Call, synchronize: Call, clock: Callable[[], float], warmup: int, runs: int) -> list[float]:
    """The reference solution of exercise 1.1."""
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
    """Make a wrong timing function.

    The options say when the function calls `synchronize`, whether it drops the warm-up runs, and which times it returns.
    """

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


TIME_RUNS_ANSWER = Answer(
    exercise=TIME_RUNS,
    reference=time_runs,
    comparison=Comparison(relative=1e-9),
    mistakes=(
        Mistake(
            "You measure only the launch, not the work: call synchronize() after call(), before you read the clock.",
            _timer(before=False, after=False),
        ),
        Mistake(
            "Your first counted run also contains work of the warm-up: call synchronize() also before you start the clock.",
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
)


# 1.2 ------------------------------------------------------------------------------------------------------------------
def greedy_decode(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    """The reference solution of exercise 1.2."""
    return _decode(model, input_ids, new_tokens, position=-1)


def _decode(model: Any, input_ids: Tensor, new_tokens: int, position: int) -> Tensor:
    """Decode greedily. The first new token is chosen from the logits at position `position` of the prompt."""
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


def _old_past(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    out = model(input_ids, use_cache=True)
    past, made = out.past_key_values, [out.logits[:, -1].argmax(-1, keepdim=True)]
    for _ in range(new_tokens - 1):
        out = model(made[-1], past_key_values=past, use_cache=True)
        made.append(out.logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(made, dim=1)


def _unneeded_call(model: Any, input_ids: Tensor, new_tokens: int) -> Tensor:
    return greedy_decode(model, input_ids, new_tokens + 1)[:, :-1]


GREEDY_DECODE_ANSWER = Answer(
    exercise=GREEDY_DECODE,
    reference=greedy_decode,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The tokens are right, but you run the whole text again for every token; pass past_key_values and only the newest "
            "token.",
            _no_cache,
        ),
        Mistake("You also return the prompt; return only the new tokens.", _with_prompt),
        Mistake(
            "You return one token too many. The first new token already comes from the logits of the prefill.", _one_too_many
        ),
        Mistake(
            "You take the logits of another position, but the next token comes from the logits of the last position.",
            _first_position,
        ),
        Mistake("You pass one token without past_key_values, so the model sees only that token.", _forgotten_past),
        Mistake(
            "Every call gets the past_key_values of the prefill; pass the ones that the last call returned.",
            _old_past,
        ),
        Mistake(
            "The tokens are right, but one call is unnecessary: the last new token does not have to be passed to the model.",
            _unneeded_call,
        ),
    ),
)


# 1.3 ------------------------------------------------------------------------------------------------------------------
def positions_processed(prompt_tokens: int, new_tokens: int, cached: bool) -> int:
    """The reference solution of exercise 1.3."""
    if cached:
        return prompt_tokens + new_tokens - 1
    return sum(prompt_tokens + made for made in range(new_tokens))


POSITIONS_PROCESSED_ANSWER = Answer(
    exercise=POSITIONS_PROCESSED,
    reference=positions_processed,
    comparison=Comparison(),
    mistakes=(
        Mistake(
            "The last new token is never passed to the model: with the cache, the model runs one position fewer.",
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
        Mistake("You swapped the two cases of `cached`.", lambda p, n, c: positions_processed(p, n, not c)),
    ),
)


# 1.4 ------------------------------------------------------------------------------------------------------------------
def cache_bytes(cache: list[tuple[Tensor, Tensor]]) -> int:
    """The reference solution of exercise 1.4."""
    return sum(t.numel() * t.element_size() for pair in cache for t in pair)


CACHE_BYTES_ANSWER = Answer(
    exercise=CACHE_BYTES,
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
)


# 1.5 ------------------------------------------------------------------------------------------------------------------
def throughput(
    batch: int, prompt_tokens: int, new_tokens: int, prefill_seconds: list[float], decode_seconds: list[float]
) -> dict[str, float]:
    """The reference solution of exercise 1.5."""
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


THROUGHPUT_ANSWER = Answer(
    exercise=THROUGHPUT,
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
)


# 1.6 ------------------------------------------------------------------------------------------------------------------
def roofline_fraction(
    config: GPTJConfig, batch: int, length: int, element_bytes: int, step_seconds: float, bytes_per_second: float
) -> float:
    """The reference solution of exercise 1.6."""
    return decode_floor_ms(config, batch, length, element_bytes, bytes_per_second) / 1e3 / step_seconds


def _fraction_with_embedding(c: GPTJConfig, b: int, n: int, e: int, s: float, m: float) -> float:
    return roofline_fraction(c, b, n, e, s, m) + c.vocab_size * c.hidden_size * e / m / s


ROOFLINE_FRACTION_ANSWER = Answer(
    exercise=ROOFLINE_FRACTION,
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
)

ANSWERS = (
    TIME_RUNS_ANSWER,
    GREEDY_DECODE_ANSWER,
    POSITIONS_PROCESSED_ANSWER,
    CACHE_BYTES_ANSWER,
    THROUGHPUT_ANSWER,
    ROOFLINE_FRACTION_ANSWER,
)
