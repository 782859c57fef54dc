"""Lab 04's drawings: the parts of a server, the ensemble's stages, two threads and a queue, and a batch that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, ORANGE, PALE, Canvas
from labkit.measure.plots import NUMBER_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
"""For each stage, from left to right: the tensors that the stage reads, and the tensors that it makes."""


def server() -> Figure:
    """A client, the server with its queue, and two processes, each with a copy of the model."""
    caption = "config.pbtxt describes everything inside the server; model.py is your code."
    canvas = Canvas("From a client to your code", 7.4, 2.0, caption=caption, inches=7.4)
    canvas.box(0.1, 0.65, 1.1, 0.7, BLUE, "client")
    canvas.arrow((1.2, 1.0), (2.1, 1.0), "request")
    canvas.box(2.1, 0.2, 2.5, 1.6)
    canvas.text(3.35, 0.4, "Triton server", weight="bold")
    for place in range(3):
        canvas.box(2.35 + 0.35 * place, 0.75, 0.3, 0.5, ORANGE)
    canvas.text(2.85, 1.5, "queue of one model")
    canvas.text(4.0, 1.0, "joins\nrequests")
    for copy in range(2):
        canvas.box(5.5, 0.2 + 0.9 * copy, 1.8, 0.7, GREEN, f"process {copy + 1}: model.py")
        canvas.arrow((4.6, 0.8 + 0.4 * copy), (5.5, 0.55 + 0.9 * copy), "" if copy else "batch")
    return canvas.figure


def ensemble() -> Figure:
    """The three stages with their tensors, and two of the wires: one from the client, and one between two stages."""
    caption = (
        "Left of each box: what the model reads. Right: what it makes. Orange: a tensor of the ensemble. Blue: a wire that you "
        "name yourself. Two wires are drawn; draw the other wires yourself."
    )
    canvas = Canvas("The stages and two of their wires", 9.1, 2.6, caption=caption, inches=9.1)
    for number, (name, (reads, makes)) in enumerate(PORTS.items()):
        canvas.box(_left(number), 0.1, _WIDTHS[number], 2.4)
        canvas.text(_left(number) + _WIDTHS[number] / 2, 0.28, name, weight="bold")
        for tensor in reads:
            canvas.text(*_input(name, tensor, 0.06), tensor, ha="left")
        for tensor in makes:
            canvas.text(*_output(name, tensor, -0.06), tensor, ha="right")
    x, y = _input("preprocessing", "QUERY")
    canvas.arrow((x - 0.8, y), (x, y), "INPUT_0", colour="#B36B00")
    canvas.arrow(_output("preprocessing", "INPUT_ID"), _input("fastertransformer", "input_ids"), "_ids", colour=BLUE)
    return canvas.figure


_WIDTHS = (2.6, 2.6, 2.1)
"""The widths of the boxes of the three stages."""


def _left(number: int) -> float:
    return 0.9 + 3.0 * number


def _input(name: str, tensor: str, aside: float = 0.0) -> tuple[float, float]:
    """The point at which an input tensor of a stage is drawn: on the left side of the stage's box, moved right by `aside`."""
    return _left(list(PORTS).index(name)) + aside, 0.65 + 0.36 * PORTS[name][0].index(tensor)


def _output(name: str, tensor: str, aside: float = 0.0) -> tuple[float, float]:
    """The point at which an output tensor of a stage is drawn: on the right side of the stage's box, moved right by `aside`.

    Its height is between the heights of two input tensors.
    """
    number = list(PORTS).index(name)
    return _left(number) + _WIDTHS[number] + aside, 0.83 + 0.36 * PORTS[name][1].index(tensor)


def stream() -> Figure:
    """The two threads of a streaming client, and the queue between them."""
    caption = "The client's thread only puts responses in. Your generator takes them out, and waits while the queue is empty."
    canvas = Canvas("Two threads and a queue", 7.4, 1.4, caption=caption, inches=7.4)
    canvas.box(0.1, 0.2, 1.9, 1.0, BLUE, "thread of the client:\ncallback(result, error)")
    canvas.arrow((2.0, 0.7), (2.9, 0.7), "put")
    for place in range(4):
        canvas.box(2.95 + 0.35 * place, 0.45, 0.3, 0.5, ORANGE if place > 1 else PALE)
    canvas.text(3.63, 1.15, "queue")
    canvas.arrow((4.4, 0.7), (5.2, 0.7), "get")
    canvas.box(5.2, 0.2, 1.2, 1.0, GREEN, "your\ngenerator")
    canvas.arrow((6.4, 0.7), (7.3, 0.7), "yield")
    return canvas.figure


def batch_that_waits(rate: float = 80.0, first: float = 0.060, more: float = 0.004, size: int = 4) -> Figure:
    """`size` requests that arrive at equal intervals, wait until the last one arrives, and are then computed in one batch.

    `rate` is in requests per second, `first` and `more` are in seconds; the picture shows milliseconds.
    """
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
        axes.barh(request, work, left=delay, height=0.6, color=BLUE, label="is computed in the batch" if not request else None)
        axes.plot([came], [request], "k|", markersize=14)
    axes.plot([], [], "k|", markersize=10, label="arrives")
    axes.set_yticks(range(size), [f"request {number + 1}" for number in range(size)])
    axes.set(xlabel="milliseconds", xlim=(-2, delay + work + 4), ylim=(size - 0.5, -1.1))
    axes.legend(fontsize=NUMBER_SIZE, ncols=3, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
