"""Figures of a load record: throughput against latency, who waited for what, how many ran at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.errors import InvalidRequest
from labkit.measure.figure import NotebookFigure
from labkit.measure.plots import COLOURS, GREY
from labkit.serving.stress.record import StressRecord
from labkit.serving.stress.times import RequestTimes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 120
"""Requests that a timeline has room for."""


def throughput_plot(record: StressRecord, *, title: str = "Throughput and latency under load") -> Figure:
    """Tokens a second against the 99th percentile of the time between tokens, a point a load, each named.

    Raises `InvalidRequest` when no load has two tokens of one request.
    """
    rows = [row for row in record.rows if row["itl_ms"]["p99"] is not None]
    if not rows:
        raise InvalidRequest("no load of this record has an inter-token latency; measure one that is answered")
    figure = _captioned(title, record.caption(), 4.2)
    axes = figure.add_subplot()
    for name, colour in (("p99", COLOURS[1]), ("p50", COLOURS[0])):
        latencies = [row["itl_ms"][name] for row in rows]
        axes.plot([row["tokens_per_second"] for row in rows], latencies, "o-", color=colour, label=name)
    for row in rows:
        place = (row["tokens_per_second"], row["itl_ms"]["p99"])
        axes.annotate(row["load"], place, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    axes.set(xlabel="tokens a second, all requests together", ylabel="milliseconds between tokens")
    axes.set_xlim(0, 1.12 * max(row["tokens_per_second"] for row in rows))
    axes.set_ylim(0, 1.15 * max(row["itl_ms"]["p99"] for row in rows))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return figure


def timeline_plot(record: StressRecord, row: int = -1, *, title: str = "Requests and the running batch") -> Figure:
    """A bar a request (waiting, prefill, decode) in the order in which they were due, over how many ran at a time.

    Where the server's queue ends is by the server's own clock. Of many requests the first 120 that count have bars. Raises
    `InvalidRequest` when no request of the row has a token.
    """
    requests = [request for request in record.requests(row) if request.pieces]
    begin = record.settings["warmup"]
    shown = [request for request in requests if request.due >= begin][:MOST_BARS]
    if not shown:
        raise InvalidRequest("no request of this load has a token; there is no timeline to draw")
    figure = _captioned(f"{title}: {record.rows[row]['load']}", record.caption(), 3.2 + 0.045 * len(shown))
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
    """Moments at which the number of requests between their first and last token changes, and that number from then on."""
    changes = [change for request in requests for change in ((request.pieces[0], 1), (request.pieces[-1], -1))]
    changes.sort(key=lambda change: (change[0], -change[1]))  # one with a single token begins before it ends
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


def _captioned(title: str, caption: str, height: float) -> Figure:
    figure = NotebookFigure(figsize=(7.0, height), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    figure.supxlabel(caption, fontsize=6, color=GREY, x=0.01, ha="left", wrap=True)
    return figure
