"""One line about what a server is doing."""

from __future__ import annotations

from labkit.errors import NotAvailable
from labkit.serving.metrics import read_metrics


def status_line(metrics: str, seconds: float, name: str, restarts: int = 0) -> str:
    """What runs and waits, requests, refusals, tokens a second on average since the start, and slots of the cache in use.

    By the metrics; the watchdog's probes are not counted. metrics: HOST:PORT. seconds: since tritonserver was started the
    last time. restarts: how often it was started again; told if it was.
    """
    try:
        found = read_metrics(metrics, timeout=2.0)
    except NotAvailable as error:
        return str(error)
    engine, refused = found.engine(), sum(found.refused().values())
    again = f", started again {restarts} time{'s' if restarts > 1 else ''}" if restarts else ""
    used = 1 - engine.free_slots / engine.num_slots if engine.num_slots else 0.0
    return (
        f"{name}: {engine.running} running, {engine.waiting} waiting, {engine.requests} requests, {refused} refused, "
        f"{engine.tokens} tokens ({engine.tokens / max(seconds, 1e-9):.0f}/s since the start), cache {used:.0%} full{again}"
    )
