"""The drawings of lab 04: what a server is made of, the ensemble's stages, two threads and a queue, a batch that waits."""

from __future__ import annotations

from typing import Any

from labkit.measure.diagram import PALE, arrow, box, canvas, note
from labkit.measure.plots import COLOURS, NUMBER_SIZE, new_figure

BLUE, ORANGE, GREEN = COLOURS[:3]

PORTS = {
    "preprocessing": (
        ("QUERY", "REQUEST_OUTPUT_LEN", "BAD_WORDS_DICT", "STOP_WORDS_DICT"),
        ("INPUT_ID", "REQUEST_INPUT_LEN", "REQUEST_OUTPUT_LEN", "BAD_WORDS_IDS", "STOP_WORDS_IDS"),
    ),
    "fastertransformer": (
        ("input_ids", "input_lengths", "request_output_len", "bad_words_list", "stop_words_list"),
        ("output_ids", "sequence_length"),
    ),
    "postprocessing": (("TOKENS_BATCH", "SEQUENCE_LENGTH"), ("OUTPUT",)),
}
"""The tensors that each stage reads and makes, from left to right in the drawing."""


def server() -> Any:
    """A client, the server with its queue, and the processes of one model's two copies."""
    caption = "Everything inside the server is told by config.pbtxt; model.py is your code."
    figure, axes = canvas("From a client to your code", caption, 7.4, 2.2)
    box(axes, (0.1, 0.75), (1.1, 0.7), "client", BLUE)
    arrow(axes, (1.2, 1.1), (2.1, 1.1), "request")
    box(axes, (2.1, 0.3), (2.5, 1.6), "")
    note(axes, (3.35, 0.5), "Triton server", weight="bold")
    for place in range(3):
        box(axes, (2.35 + 0.35 * place, 0.85), (0.3, 0.5), "", ORANGE)
    note(axes, (2.85, 1.6), "queue of one model")
    note(axes, (4.0, 1.1), "joins\nrequests")
    for copy in range(2):
        box(axes, (5.5, 0.3 + 0.9 * copy), (1.8, 0.7), f"process {copy + 1}: model.py", GREEN)
        arrow(axes, (4.6, 0.9 + 0.4 * copy), (5.5, 0.65 + 0.9 * copy), "batch" if not copy else "")
    return figure


def ensemble() -> Any:
    """The three stages with their tensors, and two of the wires: one from the client, one between stages."""
    caption = (
        "Left of each box: what the model reads. Right: what it makes. Orange: a tensor of the ensemble. Blue: a wire that you "
        "name yourself. Two wires are drawn; the others are yours to draw."
    )
    figure, axes = canvas("The stages and two of their wires", caption, 9.6, 2.6)
    for number, (name, (reads, makes)) in enumerate(PORTS.items()):
        box(axes, (_left(number), 0.1), (_WIDTHS[number], 2.4), "")
        note(axes, (_left(number) + _WIDTHS[number] / 2, 0.28), name, weight="bold")
        for tensor in reads:
            note(axes, _input(name, tensor, 0.06), tensor, ha="left", fontsize=NUMBER_SIZE - 0.5)
        for tensor in makes:
            note(axes, _output(name, tensor, -0.06), tensor, ha="right", fontsize=NUMBER_SIZE - 0.5)
    x, y = _input("preprocessing", "QUERY")
    arrow(axes, (x - 0.8, y), (x, y), "INPUT_0", colour="#B36B00")
    arrow(axes, _output("preprocessing", "INPUT_ID"), _input("fastertransformer", "input_ids"), "_ids", colour=BLUE)
    return figure


_WIDTHS = (2.6, 2.6, 2.1)
"""Of the three boxes, in inches."""


def _left(number: int) -> float:
    return 0.9 + 3.0 * number


def _input(name: str, tensor: str, aside: float = 0.0) -> tuple[float, float]:
    """Where a tensor that a stage reads is drawn: at the left side of its box."""
    return _left(list(PORTS).index(name)) + aside, 0.65 + 0.36 * PORTS[name][0].index(tensor)


def _output(name: str, tensor: str, aside: float = 0.0) -> tuple[float, float]:
    """Where a tensor that a stage makes is drawn: at the right side of its box, between the lines of the left side."""
    number = list(PORTS).index(name)
    return _left(number) + _WIDTHS[number] + aside, 0.83 + 0.36 * PORTS[name][1].index(tensor)


def stream() -> Any:
    """The two threads of a streaming client, and the queue between them."""
    caption = "The client's thread only puts in; your generator only takes out, and waits while the queue is empty."
    figure, axes = canvas("Two threads and a queue", caption, 7.4, 1.7)
    box(axes, (0.1, 0.35), (1.9, 1.0), "thread of the client:\ncallback(result, error)", BLUE)
    arrow(axes, (2.0, 0.85), (2.9, 0.85), "put")
    for place in range(4):
        box(axes, (2.95 + 0.35 * place, 0.6), (0.3, 0.5), "", ORANGE if place > 1 else PALE)
    note(axes, (3.63, 1.3), "queue")
    arrow(axes, (4.4, 0.85), (5.2, 0.85), "get")
    box(axes, (5.2, 0.35), (1.2, 1.0), "your\ngenerator", GREEN)
    arrow(axes, (6.4, 0.85), (7.3, 0.85), "yield")
    return figure


def batch_that_waits(rate: float = 80.0, first: float = 0.060, more: float = 0.004, size: int = 4) -> Any:
    """`size` requests that come evenly, wait for the last of them, and are computed together; times in milliseconds."""
    caption = (
        f"{rate:g} requests a second; a batch of n takes {1e3 * first:g} + {1e3 * more:g} n milliseconds; here n = {size}."
    )
    figure = new_figure("One batch on a time axis", caption, height=2.9)
    axes = figure.add_subplot()
    gap, delay, work = 1e3 / rate, 1e3 * (size - 1) / rate, 1e3 * (first + more * size)
    for request in range(size):
        came = request * gap
        label = "waits in the queue" if not request else None
        axes.barh(request, delay - came, left=came, height=0.6, color=ORANGE, label=label)
        axes.barh(
            request, work, left=delay, height=0.6, color=BLUE, label="is computed, with the others" if not request else None
        )
        axes.plot([came], [request], "k|", markersize=14)
    axes.plot([], [], "k|", markersize=10, label="arrives")
    axes.set_yticks(range(size), [f"request {number + 1}" for number in range(size)])
    axes.set(xlabel="milliseconds", xlim=(-2, delay + work + 4), ylim=(size - 0.5, -1.1))
    axes.legend(fontsize=NUMBER_SIZE, ncols=3, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
