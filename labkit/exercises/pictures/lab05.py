"""Lab 05's drawings: integers on a number line, a weight's scales, two numbers in a byte, a GPTQ step, rounding with a
gradient, and the bits of FP8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, GREY, ORANGE, PALE, PINK, Canvas
from labkit.measure.plots import COLOURS, NUMBER_SIZE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def number_line(low: float = -0.5, high: float = 3.0, bits: int = 3) -> Figure:
    """The numbers that integers stand for in symmetric and in asymmetric quantization, above the range from `low` to `high`."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    wide = max(abs(low), abs(high)) / highest
    narrow = (high - low) / (2**bits - 1)
    lines = {"symmetric": (wide, 0), "asymmetric": (narrow, round(lowest - low / narrow))}
    ends: list[float] = [scale * (q - zero) for scale, zero in lines.values() for q in (lowest, highest)]
    least, unit = min(ends), (max(ends) - min(ends)) / 6.0
    title = f"{bits} bits for numbers from {low:g} to {high:g}"
    caption = (
        "Each tick is an integer, at the number that it stands for. Orange: the range of the numbers. The dotted line is 0, "
        "which has an integer in both forms."
    )
    canvas = Canvas(title, 8.2, 2.3, caption=caption, inches=8.2)

    def place(number: float) -> float:
        return 1.7 + (number - least) / unit

    canvas.line((place(0), 0.0), (place(0), 2.25), style=":", colour=GREY)
    for row, (name, (scale, zero)) in enumerate(lines.items()):
        y = 0.5 + 1.15 * row
        canvas.text(0, y - 0.1, name, ha="left", weight="bold")
        canvas.box(place(low), y - 0.25, place(high) - place(low), 0.2, ORANGE)
        canvas.ruler(y, {place(scale * (q - zero)): str(q) for q in range(lowest, highest + 1)})
        canvas.text(0, y + 0.18, f"scale {scale:.3g}", ha="left")
        canvas.text(0, y + 0.42, f"zero point {zero}", ha="left")
    return canvas.figure


def scales_of(rows: int = 4, columns: int = 8, group: int = 4) -> Figure:
    """The same weight with three kinds of scales: the numbers that share a scale have the same colour."""
    caption = (
        "Cells of the same colour share a scale. The orange cell is an outlier: it makes the steps coarse for all cells of its "
        "colour."
    )
    canvas = Canvas("Which numbers share a scale?", 3 * columns + 4.6, rows + 1.6, caption=caption, inches=8.2)
    groups = columns // group
    forms = {
        "per tensor: 1 scale": (rows, columns),
        f"per row: {rows} scales": (1, columns),
        f"groups of {group}: {rows * groups} scales": (1, group),
    }
    shades = ("#56B4E9", "#EBEBEB", "#A9CCE3", "#D6E6F2", "#C9E4C5", "#F5E6C8", "#E3D4EA", "#D9D9D9")
    for number, (name, (high, wide)) in enumerate(forms.items()):
        left = 0.3 + number * (columns + 2.0)
        canvas.text(left + columns / 2, 0.6, name)
        for row in range(rows):
            for column in range(columns):
                is_outlier = (row, column) == (1, 5)
                colour = ORANGE if is_outlier else shades[(row // high * (columns // wide) + column // wide) % len(shades)]
                canvas.box(left + column, 1.3 + row, 1, 1, colour)
    return canvas.figure


def nibbles(even: int = 3, odd: int = -5) -> Figure:
    """Two numbers from -8 to 7 in one byte: the odd neighbour in the high four bits, the even one in the low four bits."""
    low, high = even + 8, odd + 8
    byte = low | high << 4
    canvas = Canvas(f"{even} and {odd} in one byte: {byte}", 8.2, 2.1, caption="", inches=8.2)
    for left, name, number, stored, colour in (
        (0.5, "odd column", odd, high, ORANGE),
        (4.3, "even column", even, low, BLUE),
    ):
        canvas.text(left + 1.7, 0.2, f"{name}: {number} + 8 = {stored} = {stored:04b}")
        canvas.arrow((left + 1.7, 0.4), (left + 1.7, 0.85))
        for place, bit in enumerate(f"{stored:04b}"):
            canvas.box(left + 0.85 * place, 0.9, 0.85, 0.6, colour, bit, size=12)
        canvas.bracket(left + 0.05, left + 3.35, 1.65, "high four bits: times 16" if colour == ORANGE else "low four bits")
    return canvas.figure


def column_step(columns: int = 8, column: int = 3) -> Figure:
    """One step of GPTQ: the weight with its finished, current and later columns, and the row of the factor U that is used."""
    caption = (
        "Green: columns that are rounded. Orange: the column of this step, and U[j, j]. Blue: the columns that compensate for "
        "its error, and the part of row j that says how much. U is 0 below its diagonal."
    )
    canvas = Canvas(f"Step j = {column}", 2 * columns + 4.0, 0.75 * columns + 1.6, caption=caption, inches=7.4)
    canvas.text(columns / 2, 0.5, "weight [out, in]")
    for place in range(columns):
        colour = GREEN if place < column else ORANGE if place == column else BLUE
        canvas.box(place, 1.2, 1, columns * 0.75, colour, str(place))
    left = columns + 3.0
    canvas.text(left + columns / 2, 0.5, "factor U [in, in]")
    for row in range(columns):
        for place in range(row, columns):
            used = row == column
            colour = ORANGE if used and place == row else BLUE if used else PALE
            canvas.box(left + place, 1.2 + row * 0.75, 1, 0.75, colour)
    canvas.text(left - 0.7, 1.2 + (column + 0.5) * 0.75, "row j")
    return canvas.figure


def staircase(bits: int = 3, scale: float = 0.5) -> Figure:
    """The values that fake quantization returns, and the straight line whose slope is used as the gradient in training."""
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    caption = (
        "The flat steps have the gradient 0 everywhere. The dashed line has the gradient 1 inside the range, and 0 outside."
    )
    figure = new_figure(f"Fake quantization: {bits} bits, scale {scale:g}", caption, height=3.2)
    axes = figure.add_subplot()
    edges = [(lowest - 2) * scale, *[(q + 0.5) * scale for q in range(lowest, highest)], (highest + 2) * scale]
    steps = [q * scale for q in range(lowest, highest + 1)]
    axes.stairs(steps, edges, baseline=None, color=BLUE, linewidth=2, label="forward: rounded and clipped")
    ends = [(lowest - 2) * scale, lowest * scale, highest * scale, (highest + 2) * scale]
    axes.plot(ends, [ends[1], ends[1], ends[2], ends[2]], "--", color=COLOURS[1], label="backward: as if only clipped")
    axes.set(xlabel="weight", ylabel="fake-quantized weight")
    axes.legend(fontsize=NUMBER_SIZE, loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def fp8_bits() -> Figure:
    """The bits of float16 and of the two FP8 formats, with the largest number of each."""
    caption = "Pink: sign. Orange: exponent, which gives range. Blue: fraction, which gives precision."
    canvas = Canvas("Eight bits: range or precision?", 20.5, 4.4, caption=caption, inches=8.2)
    formats = (("fp16", 5, 10, "65,504"), ("e5m2", 5, 2, "57,344"), ("e4m3", 4, 3, "448"))
    for row, (name, exponent, fraction, largest) in enumerate(formats):
        y = 0.9 + 1.2 * row
        canvas.text(0, y + 0.45, name, ha="left", weight="bold")
        for place in range(1 + exponent + fraction):
            colour = PINK if place == 0 else ORANGE if place <= exponent else BLUE
            canvas.box(1.7 + 0.9 * place, y, 0.9, 0.9, colour)
        canvas.text(20.4, y + 0.45, f"largest: {largest}", ha="right")
    return canvas.figure
