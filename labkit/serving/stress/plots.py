"""Figures of a stress test: latency against throughput, and a timeline of the requests and of the running batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.errors import InvalidRequest
from labkit.measure.plots import COLOURS, new_figure
from labkit.serving.stress.record import StressRecord
from labkit.serving.stress.summary import named
from labkit.serving.stress.times import RequestTimes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 120
"""The maximum number of requests in a timeline."""


def throughput_plot(record: StressRecord, *, title: str = "Throughput and latency in a stress test") -> Figure:
    """Plot the time between tokens (median and 99th percentile) against tokens per second, with one labelled point per load.

    Raises `InvalidRequest` if no request of any row has two tokens.
    """
    rows = [row for row in record.rows if row["itl_ms"]["p99"] is not None]
    if not rows:
        raise InvalidRequest("no row of this record has an inter-token latency; run a stress test whose requests are answered")
    figure = new_figure(title, record.caption(), height=4.2)
    axes = figure.add_subplot()
    for name, colour in (("p99", COLOURS[1]), ("p50", COLOURS[0])):
        latencies = [row["itl_ms"][name] for row in rows]
        axes.plot([row["tokens_per_second"] for row in rows], latencies, "o-", color=colour, label=name)
    for row in rows:
        place = (row["tokens_per_second"], row["itl_ms"]["p99"])
        axes.annotate(named(row), place, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel="tokens per second, all requests together", ylabel="milliseconds between tokens")
    axes.set_xlim(0, 1.12 * max(row["tokens_per_second"] for row in rows))
    axes.set_ylim(0, 1.15 * max(row["itl_ms"]["p99"] for row in rows))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def timeline_plot(record: StressRecord, row: int = -1, *, title: str = "Requests and the running batch") -> Figure:
    """Draw a bar for each request (waiting, prefill, decode), in the order of due times, above a curve of the running batch.

    The curve shows how many requests are decoding.

    The server reports when a request's waiting time ended. At most `MOST_BARS` requests have bars: the first requests that were
    due after the warm-up. Raises `InvalidRequest` if no request of the row has a token.
    """
    requests = [request for request in record.requests(row) if request.pieces]
    begin = record.settings["warmup"]
    shown = [request for request in requests if request.due >= begin][:MOST_BARS]
    if not shown:
        raise InvalidRequest("no request of this row has a token; there is no timeline to draw")
    figure = new_figure(f"{title}: {named(record.rows[row])}", record.caption(row), height=3.2 + 0.045 * len(shown))
    bars, batch = figure.subplots(2, sharex=True, height_ratios=(2 + 0.03 * len(shown), 1))
    _draw_bars(bars, shown)
    moments, sizes = running_batch(requests)
    batch.step(moments, sizes, where="post", color=COLOURS[0])
    batch.fill_between(moments, sizes, step="post", color=COLOURS[0], alpha=0.2)
    ends = [request.pieces[-1] for request in shown]
    batch.set(xlabel="seconds", ylabel="decoding", xlim=(min(begin, shown[0].due), max(ends)))
    batch.set_ylim(bottom=0)
    return figure


def running_batch(requests: Sequence[RequestTimes]) -> tuple[list[float], list[int]]:
    """Return the times at which the number of decoding requests changes, and the number after each change.

    A request is decoding between its first and its last token.
    """
    changes = [change for request in requests for change in ((request.pieces[0], 1), (request.pieces[-1], -1))]
    changes.sort(key=lambda change: (change[0], -change[1]))  # a request with a single token begins before it ends
    moments, sizes, size = [], [], 0
    for moment, change in changes:
        size += change
        moments.append(moment)
        sizes.append(size)
    return moments, sizes


def _draw_bars(axes: Axes, requests: Sequence[RequestTimes]) -> None:
    starts = [min(request.sent + request.queue_seconds, request.pieces[0]) for request in requests]
    parts = (
        ("waiting", "#BBBBBB", [request.due for request in requests], starts),
        ("prefill", COLOURS[1], starts, [request.pieces[0] for request in requests]),
        ("decode", COLOURS[0], [request.pieces[0] for request in requests], [request.pieces[-1] for request in requests]),
    )
    for label, colour, lefts, rights in parts:
        widths = [right - left for left, right in zip(lefts, rights, strict=True)]
        axes.barh(range(len(requests)), widths, left=lefts, height=0.8, color=colour, label=label)
    axes.set(ylabel="request", ylim=(len(requests) - 0.4, -0.6))
    axes.locator_params(axis="y", integer=True)
    axes.legend(fontsize=8, loc="lower left")
