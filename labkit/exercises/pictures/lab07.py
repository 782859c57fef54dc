"""Lab 07's drawings: the memory traffic that fusion saves, two cuts through a block, and an ensemble of two parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, ORANGE, PALE, PINK, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fusion(kernels: tuple[str, ...] = ("Add", "Tanh", "Mul")) -> Figure:
    """A chain of pointwise kernels that pass a tensor through memory, and the fused kernel that keeps it in registers."""
    count = len(kernels)
    caption = (
        "Each arrow is a tensor that is read from memory or written to it. Second inputs, such as a bias, are left out: "
        "they are read in both cases."
    )
    canvas = Canvas(f"{2 * count} trips through memory, or 2", 2.2 * count + 4.2, 3.6, caption=caption, inches=8.2)
    wide = 2.2 * count
    canvas.box(0, 2.6, wide, 0.7, PALE, "memory")
    for number, name in enumerate(kernels):
        x = 0.3 + 2.2 * number
        canvas.box(x, 0.6, 1.6, 0.8, BLUE, name)
        canvas.arrow((x + 0.4, 2.6), (x + 0.4, 1.4))
        canvas.arrow((x + 1.2, 1.4), (x + 1.2, 2.6))
    left = wide + 0.8
    canvas.box(left, 2.6, 3.2, 0.7, PALE, "memory")
    canvas.box(left + 0.2, 0.6, 2.8, 0.8, ORANGE, " + ".join(kernels))
    canvas.arrow((left + 0.7, 2.6), (left + 0.7, 1.4))
    canvas.arrow((left + 2.5, 1.4), (left + 2.5, 2.6))
    canvas.text(wide / 2, 0.25, f"{count} kernels")
    canvas.text(left + 1.6, 0.25, "one kernel")
    return canvas.figure


def parallel_block() -> Figure:
    """A block of GPT-J, in which attention and MLP read the same tensor and the residual bypasses both.

    Two cuts are drawn, with the tensors that cross them.
    """
    caption = (
        "The dotted lines are cuts. Inside the block, three tensors cross: the residual, the result of attention, and what the "
        "MLP reads. Between two blocks only the hidden state crosses."
    )
    canvas = Canvas("A block of GPT-J, cut at two places", 12.4, 4.6, caption=caption, inches=8.2)
    canvas.line((0, 2.3), (1.1, 2.3))
    canvas.text(0.5, 2.65, "hidden")
    canvas.line((0.6, 2.3), (0.6, 0.8), (9.1, 0.8))
    canvas.text(3.2, 0.5, "residual")
    canvas.box(1.1, 1.9, 1.4, 0.8, PINK, "norm")
    canvas.line((2.5, 2.3), (3.0, 2.3))
    canvas.box(3.6, 1.5, 1.9, 0.8, BLUE, "attention")
    canvas.line((3.0, 1.9), (3.6, 1.9))
    canvas.line((3.0, 1.9), (3.0, 3.3), (6.4, 3.3))
    canvas.box(6.4, 2.9, 1.5, 0.8, GREEN, "MLP")
    canvas.line((5.5, 1.9), (9.1, 1.9))
    canvas.line((7.9, 3.3), (9.1, 3.3))
    canvas.box(9.1, 0.4, 0.9, 3.3, ORANGE, "+")
    canvas.arrow((10.0, 2.3), (12.3, 2.3))
    for x, words in ((5.95, "3 tensors"), (11.0, "1 tensor")):
        canvas.line((x, 0.2), (x, 3.9), style=":")
        canvas.text(x, 4.2, words)
    return canvas.figure


def parts_on_a_server() -> Figure:
    """A client and an ensemble of two parts: the tensors that the client sends or reads, and a tensor inside the server."""
    caption = (
        "Orange: tensors of the ensemble, which the client sends or reads: token ids, logits, and the caches of all layers. "
        "Blue: the seam, a wire inside the server."
    )
    canvas = Canvas("Two parts, one seam", 12.0, 4.3, caption=caption, inches=8.2)
    canvas.box(2.4, 0.1, 7.2, 2.9)
    canvas.text(6.0, 0.45, "ensemble", weight="bold")
    tensor = "#B36B00"
    for number, x in enumerate((3.0, 7.1)):
        canvas.box(x, 0.9, 1.9, 1.6, GREEN, f"part {number + 1}")
        canvas.arrow((x + 0.5, 3.9), (x + 0.5, 2.5), colour=tensor)
        canvas.arrow((x + 1.4, 2.5), (x + 1.4, 3.9), colour=tensor)
        canvas.text(x + 0.4, 4.1, f"past, part {number + 1}", colour=tensor)
        canvas.text(x + 2.0, 4.1, f"present, part {number + 1}", colour=tensor)
    canvas.arrow((0.1, 1.7), (3.0, 1.7), colour=tensor)
    canvas.text(1.2, 1.4, "input_ids", colour=tensor)
    canvas.arrow((4.9, 1.7), (7.1, 1.7), "hidden_1", colour=BLUE)
    canvas.arrow((9.0, 1.7), (11.9, 1.7), colour=tensor)
    canvas.text(10.8, 1.4, "logits", colour=tensor)
    return canvas.figure
