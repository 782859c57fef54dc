"""Turns measurements into the rows and ratios of a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from torch import Tensor

from labkit.bench.engines import BenchEngine, LabkitEngine
from labkit.bench.rounds import Measured
from labkit.measure import Ratio, Roofline, Timing, ratio

PHASES = ("prefill", "decode", "end_to_end")


def rows_of(
    batch: int,
    precision: str,
    measured: Mapping[str, Measured],
    about: Mapping[str, dict[str, Any]],
    limit_of: Callable[[float], Roofline],
    interleaved: bool,
) -> list[dict[str, Any]]:
    """Make one row per engine. `about` holds the result of `about_engine` for each engine.

    `limit_of` takes a memory bandwidth in bytes per second and returns the roofline limit of a step in the middle of the
    generation. For each round, the fraction of the limit is computed with the bandwidth that was measured in that round. The
    entry `disturbed` of a row says how other programs disturbed the rounds; it is "" if none did.
    """
    first = next(iter(measured.values()))
    rows = []
    for name, found in measured.items():
        new_tokens = found.tokens.shape[1]
        steps = [seconds / (new_tokens - 1) for seconds in found.decode.samples]
        shares = [limit_of(rate).decode_seconds / step for rate, step in zip(found.read_rates, steps, strict=True)]
        read = median(found.read_rates)
        whole = found.end_to_end
        facts = dict(about[name])
        rows.append(
            {
                "engine": name,
                "version": facts.pop("version"),
                "precision": precision,
                "detail": facts.pop("detail"),
                "batch": batch,
                "interleaved": interleaved,
                "prefill_ms": 1e3 * found.prefill.median,
                "decode_ms_per_token": 1e3 * median(steps),
                "end_to_end_ms": 1e3 * whole.median,
                "tokens_per_second": batch * new_tokens / whole.median,
                "peak_bytes": facts.pop("held_bytes") + found.run_bytes,
                "fraction_of_limit": median(shares),
                "decode_bound": limit_of(read).decode_bound,
                "read_bytes_per_second": read,
                "spread": {phase: timing_of(found, phase).spread for phase in PHASES},
                "runs": found.decode.runs,
                "disturbed": found.disturbed,
                "greedy_tokens_agree": agreement(first.tokens, found.tokens),
                **facts,
            }
        )
    return rows


def about_engine(engine: BenchEngine, held_bytes: int, build_seconds: float) -> dict[str, Any]:
    """The entries of an engine's row, except its times."""
    detail, version = engine.detail, engine.version()
    return {"version": version, "detail": detail, "held_bytes": held_bytes, "build_seconds": build_seconds}


def ratios_of(batch: int, measured: Mapping[str, Measured], interleaved: bool) -> list[dict[str, Any]]:
    """Return, for each peer, how many times faster labkit is. The list is empty if labkit was not measured.

    The entry `disturbed` says how other programs disturbed labkit or the peer; it is "" if none did.
    """
    ours = measured.get(LabkitEngine.name)
    if ours is None:
        return []
    compared = ratio if interleaved else apart
    rows = []
    for name, theirs in measured.items():
        if theirs is not ours:
            row: dict[str, Any] = {"peer": name, "batch": batch, "interleaved": interleaved}
            row["disturbed"] = ours.disturbed or theirs.disturbed
            for phase in PHASES:
                found = compared(timing_of(theirs, phase), timing_of(ours, phase))
                row[phase] = {"median": found.median, "low": found.low, "high": found.high}
            rows.append(row)
    return rows


def apart(slow: Timing, fast: Timing) -> Ratio:
    """Return the ratio of the medians of two engines that did not take turns.

    The bounds of the ratio are computed from the quartiles that make it smallest and largest.
    """
    return Ratio(slow.median / fast.median, slow.low / fast.high, slow.high / fast.low)


def timing_of(measured: Measured, phase: str) -> Timing:
    """The times of one phase. `phase` is one of the names in `PHASES`."""
    timing: Timing = getattr(measured, phase)
    return timing


def agreement(first: Tensor, tokens: Tensor) -> float:
    """The share of positions at which `tokens` equal `first`, the tokens of the first engine. In fp32 the share should be 1.

    The first engine is labkit, if labkit was measured.
    """
    return float((first == tokens).double().mean())
