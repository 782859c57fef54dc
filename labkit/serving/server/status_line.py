"""One line of text about what a server is doing."""

from __future__ import annotations

from labkit.errors import NotAvailable
from labkit.plurals import counted
from labkit.serving.metrics import read_metrics


def status_line(metrics: str, seconds: float, name: str, restarts: int = 0) -> str:
    """Return one line: running and waiting sequences, requests, refusals, tokens per second, and the share of the cache in use.

    The numbers come from the metrics, without the watchdog's probes. metrics: HOST:PORT of the server's metrics. seconds: the
    time since the last start of tritonserver. restarts: how often tritonserver was started again; 0 is not shown.
    """
    try:
        found = read_metrics(metrics, timeout=2.0)
    except NotAvailable as error:
        return str(error)
    engine, refused = found.engine(), sum(found.refused().values())
    again = f", started again {counted(restarts, 'time')}" if restarts else ""
    used = 1 - engine.free_slots / engine.num_slots if engine.num_slots else 0.0
    return (
        f"{name}: {engine.running} running, {engine.waiting} waiting, {counted(engine.requests, 'request')}, "
        f"{refused} refused, {counted(engine.tokens, 'token')} ({engine.tokens / max(seconds, 1e-9):.0f}/s since the start), "
        f"cache {used:.0%} full{again}"
    )
