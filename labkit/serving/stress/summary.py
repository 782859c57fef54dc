"""Summarises a stress test: percentiles, throughput, goodput, errors, and whether the load generator kept up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from labkit.measure.disturbed import SIGN
from labkit.serving.stress.times import StressRun

LATE_SECONDS = 0.02
"""The load generator did not keep up if the 99th percentile of its delays is above this many seconds.

This holds for the delays with which it sent requests, and for the delays of its event loop.
"""


def percentiles(values: Sequence[float], scale: float = 1e3) -> dict[str, float | int | None]:
    """Return `p50`, `p95`, `p99`, `mean` and `max`, multiplied by `scale` (default: seconds to milliseconds), and `count`.

    Percentile p of n sorted values is at index (n - 1) p / 100, counted from 0, with linear interpolation. If there are no
    values, `count` is 0 and all other entries are None.
    """
    if not values:
        return {"p50": None, "p95": None, "p99": None, "mean": None, "max": None, "count": 0}
    ordered = sorted(value * scale for value in values)
    found: dict[str, float | int | None] = {f"p{percent}": _at(ordered, percent) for percent in (50, 95, 99)}
    return found | {"mean": sum(ordered) / len(ordered), "max": ordered[-1], "count": len(ordered)}


def summarise(run: StressRun) -> dict[str, Any]:
    """Return the row of a run for a record. Latencies are in milliseconds; only requests that were due after the warm-up count.

    `ttft_ms`: the time from the due time to the first token. `itl_ms`: the time between tokens. `e2e_ms`: the time from the due
    time to the last token, for complete answers. `tokens_per_second`: tokens that arrived per second of the measurement.
    `requests_per_second`: requests that were answered per second of the measurement. `goodput`: requests per second that met
    both latency limits. `good_share`: the share of due requests that met both limits. `lag_ms`: how late requests were sent.
    `loop_lag_ms`: how late the load generator's event loop was. `fell_behind`: a warning if the load generator did not keep up,
    otherwise an empty text. `disturbed`: says how other programs disturbed the run; it is empty if they did not.
    `not_watched`: says why it is not known whether other programs disturbed the run; it is empty if this is known.
    """
    settings, counted = run.settings, run.counted
    answered = [request for request in counted if request.error is None and request.pieces]
    good = sum(request.is_good(settings.ttft_limit, settings.itl_limit) for request in counted)
    arrived = sum(run.begin <= moment < run.end for request in run.requests for moment in request.pieces)
    done = sum(request.error is None and run.begin <= request.ended < run.end for request in run.requests)
    kinds = Counter(request.error for request in counted if request.error is not None)
    return {
        "load": settings.offered_load,
        "users": settings.users,
        "rate": settings.rate,
        "requests": len(counted),
        "answered": len(answered),
        "errors": dict(kinds),
        "error_words": {request.error: request.words for request in reversed(counted) if request.error is not None},
        "ttft_ms": percentiles([request.ttft for request in counted if request.pieces]),
        "itl_ms": percentiles([gap for request in counted for gap in request.gaps]),
        "e2e_ms": percentiles([request.e2e for request in answered]),
        "queue_ms": percentiles([request.queue_seconds for request in answered]),
        "prompt_tokens": sum(request.prompt_tokens for request in answered),
        "new_tokens": sum(request.tokens for request in counted),
        "tokens_per_second": arrived / settings.seconds,
        "requests_per_second": done / settings.seconds,
        "goodput": good / settings.seconds,
        "good_share": good / len(counted) if counted else None,
        "lag_ms": percentiles([request.sent - request.due for request in counted]),
        "loop_lag_ms": percentiles(run.loop_lags),
        "fell_behind": fell_behind(run),
        "disturbed": run.disturbed,
        "not_watched": run.not_watched,
    }


def named(row: dict[str, Any]) -> str:
    """Return the load of a row, with a sign if other programs disturbed the row.

    Rows of older records do not say whether other programs disturbed them; their loads get no sign.
    """
    return f"{row['load']} {SIGN}" if row.get("disturbed") else str(row["load"])


def fell_behind(run: StressRun) -> str:
    """Return a warning if the load generator did not keep up, and an empty text if it did."""
    lags = {"with its requests": [request.sent - request.due for request in run.counted], "in noting tokens": run.loop_lags}
    late = [f"{1e3 * worst:.0f} ms late {what}" for what, values in lags.items() if (worst := _p99(values)) > LATE_SECONDS]
    if not late:
        return ""
    return (
        f"the load generator itself was {' and '.join(late)} (99th percentile): a latency is counted from the time when the "
        "request was due, so it includes this delay; reduce the load, or run the stress test on another machine than the server"
    )


def _p99(values: Sequence[float]) -> float:
    return _at(sorted(values), 99) if values else 0.0


def _at(ordered: Sequence[float], percent: float) -> float:
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
