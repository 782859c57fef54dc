"""Lab 02's drawings: a grid of programs, the place of an element in memory, and attention computed in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, ORANGE, PALE, PINK, Canvas
from labkit.measure.plots import DARK, ink_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def program_grid(rows: int = 3, size: int = 100, block: int = 128) -> Figure:
    """The programs of a launch, one per row, with the elements that each program loads and the elements that it masks."""
    left = 34.0
    title = f"kernel[({rows},)](..., BLOCK={block}): {rows} programs, one per row"
    caption = "Each colour is the work of one program. Its mask leaves out the hatched elements."
    canvas = Canvas(title, left + block + 4, 14.0 * rows + 8, caption=caption)
    for row, colour in zip(range(rows), (BLUE, ORANGE, GREEN, PINK) * rows, strict=False):
        y = 1.0 + 14 * row
        canvas.text(0, y + 4, f"program_id(0) = {row}", ha="left")
        canvas.box(left, y, size, 8, colour, f"x[{row}, 0] ... x[{row}, {size - 1}]: inside", size=10)
        if block > size:
            canvas.box(left + size, y, block - size, 8, PALE, "masked", hatched=True)
        first = row * size
        canvas.text(left, y + 10.3, f"place {first}", ha="left")
        canvas.text(left + size - 1, y + 10.3, f"place {first + size - 1}", ha="right")
    y = 14.0 * rows + 2
    canvas.text(0, y, "column", ha="left")
    canvas.ruler(y, {left + column: str(column) for column in (0, size, block)})
    return canvas.figure


def address(token: int = 2, head: int = 1, dim: int = 4, *, tokens: int = 3, heads: int = 3, head_dim: int = 10) -> Figure:
    """Where the element (token, head, dim) of a contiguous tensor [tokens, heads, head_dim] is in memory."""
    row = heads * head_dim
    place = token * row + head * head_dim + dim
    total = float(tokens * row)
    unit = total / 90  # With this unit, heights and distances in inches are the same for a tensor of any size.
    canvas = Canvas(
        f"[{tokens}, {heads}, {head_dim}] in memory: element ({token}, {head}, {dim}) is at place {place}",
        total + 2 * unit,
        23.0 * unit,
        caption="Neighbouring heads differ in colour; the dark mark is the element.",
    )
    left = unit
    for t in range(tokens):
        start = left + t * row
        canvas.bracket(start + 0.3 * unit, start + row - 0.3 * unit, 3 * unit, f"token {t}", above=True)
        for h in range(heads):
            x, colour = start + h * head_dim, (BLUE, ORANGE)[h % 2]
            canvas.box(x, 4.5 * unit, head_dim, 6.5 * unit, colour)
            canvas.text(x + head_dim / 2, 6.3 * unit, f"head {h}", colour=ink_on(colour))
    canvas.box(left + place, 8 * unit, 1, 3 * unit, DARK)
    steps = [
        (0, token * row, f"token * heads * head_dim = {token} * {heads} * {head_dim} = {token * row}"),
        (token * row, token * row + head * head_dim, f"+ head * head_dim = {head * head_dim}"),
        (token * row + head * head_dim, place, f"+ dim = {dim}"),
    ]
    for line, (start, end, words) in enumerate(steps):
        y = (15.0 + 3.5 * line) * unit
        canvas.arrow((left + start, y), (left + end + 0.5, y))
        if line == 0:
            canvas.text(left + unit, y - 1.5 * unit, words, ha="left")
        elif start > total / 2:
            canvas.text(left + start - unit, y, words, ha="right")
        else:
            canvas.text(left + end + 2 * unit, y, words, ha="left")
    return canvas.figure


def parts(length: int = 10, block: int = 4, slots: tuple[int, ...] = (7, 2, 9, 0, 5, 3, 11, 8, 1, 6, 4, 10)) -> Figure:
    """The attention of one query, computed in parts: the slot table, each program's part, and how the parts are combined."""
    width, count = len(slots), -(-len(slots) // block)
    left = 3.4
    title = f"One sequence, one head: {length} tokens in parts of BLOCK = {block}"
    caption = (
        "Each colour marks one part: its slots, its program and its three results. Hatched positions come after the last token."
    )
    canvas = Canvas(title, left + width + 0.1, 6.7, caption=caption)
    for y, words in ((0.3, "position"), (1.05, "slot_table[s]"), (2.45, "keys and values"), (4.3, "stored per part")):
        canvas.text(0, y, words, ha="left")
    for position, slot in enumerate(slots):
        seen, colour = position < length, (BLUE, ORANGE, GREEN)[position // block % 3]
        canvas.text(left + position + 0.5, 0.3, str(position))
        canvas.box(left + position, 0.7, 1, 0.7, colour if seen else PALE, str(slot) if seen else "?", hatched=not seen)
    for part in range(count):
        x, colour = left + part * block, (BLUE, ORANGE, GREEN)[part % 3]
        canvas.box(x + 0.1, 1.9, block - 0.2, 1.1, colour, f"program (s, head, {part})\nloads a tile [BLOCK, DIM]")
        canvas.arrow((x + block / 2, 3.05), (x + block / 2, 3.85))
        canvas.box(x + 0.6, 3.9, block - 1.2, 0.8, colour, f"$m_{part}$, $s_{part}$, $o_{part}$", size=11)
        canvas.arrow((x + block / 2, 4.75), (left + width / 2 + (part - (count - 1) / 2) * 0.7, 5.65))
    canvas.box(left + width / 2 - 2.4, 5.7, 4.8, 0.9, DARK, "combined: one $o$ [head_dim]", size=10)
    return canvas.figure
