"""Lab 02's drawings: a grid of programs, where an element of a tensor lies, and attention in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.exercises.pictures.canvas import BLUE, GREEN, INK, ORANGE, PALE, PINK, Canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def program_grid(rows: int = 3, size: int = 100, block: int = 128) -> Figure:
    """Each program of a launch with one row: the elements that it loads and those that its mask leaves out."""
    left = 34.0
    canvas = Canvas(f"kernel[({rows},)](..., BLOCK={block}): {rows} programs, one per row", left + block + 4, 14.0 * rows + 13)
    for row, colour in zip(range(rows), (BLUE, ORANGE, GREEN, PINK) * rows, strict=False):
        y = 4.0 + 14 * row
        canvas.text(0, y + 4, f"program_id(0) = {row}", ha="left")
        canvas.box(left, y, size, 8, colour, f"x[{row}, 0] ... x[{row}, {size - 1}]: inside", size=10)
        if block > size:
            canvas.box(left + size, y, block - size, 8, PALE, "masked", hatched=True)
        first = row * size
        canvas.text(left, y + 10.5, f"place {first}", ha="left", size=8)
        canvas.text(left + size - 1, y + 10.5, f"place {first + size - 1}", ha="right", size=8)
    y = 14.0 * rows + 5
    for column in (0, size, block):
        canvas.text(left + column, y + 5, str(column), size=8)
        canvas.axes.plot([left + column] * 2, [y, y + 2], color=INK, linewidth=1)
    canvas.axes.plot([left, left + block], [y, y], color=INK, linewidth=1)
    canvas.text(0, y + 1, "column", ha="left")
    return canvas.figure


def address(token: int = 2, head: int = 1, dim: int = 4, *, tokens: int = 3, heads: int = 3, head_dim: int = 10) -> Figure:
    """Where element (token, head, dim) of a contiguous tensor [tokens, heads, head_dim] lies."""
    row = heads * head_dim
    place = token * row + head * head_dim + dim
    total = float(tokens * row)
    canvas = Canvas(
        f"[{tokens}, {heads}, {head_dim}] in memory: element ({token}, {head}, {dim}) lies at place {place}", total + 4, 25.0
    )
    for t in range(tokens):
        for h in range(heads):
            colour = (BLUE, ORANGE)[(t * heads + h) % 2]
            canvas.box(2 + t * row + h * head_dim, 6, head_dim, 5, colour)
            aside = 0.25 * head_dim if (t, h) == (token, head) else 0.0  # beside the mark, not under it
            canvas.text(2 + t * row + (h + 0.5) * head_dim + aside, 8.5, f"head {h}", colour="white", size=8)
        canvas.bracket(2 + t * row + 0.3, 2 + (t + 1) * row - 0.3, 5, f"token {t}", tick=-0.7, above=True)
    canvas.box(2 + place, 5.6, 1, 5.8, INK)
    steps = [
        (0, token * row, f"token * heads * head_dim = {token} * {heads} * {head_dim} = {token * row}"),
        (token * row, token * row + head * head_dim, f"+ head * head_dim = {head * head_dim}"),
        (token * row + head * head_dim, place, f"+ dim = {dim}"),
    ]
    for line, (start, end, words) in enumerate(steps):
        y = 14.0 + 3.6 * line
        canvas.arrow((2 + start, y), (2 + end + 0.5, y))
        if line == 0:
            canvas.text(2 + (start + end) / 2, y - 1.2, words)
        else:
            canvas.text(1 + start, y, words, ha="right")
    return canvas.figure


def parts(length: int = 10, block: int = 4, slots: tuple[int, ...] = (7, 2, 9, 0, 5, 3, 11, 8, 1, 6, 4, 10)) -> Figure:
    """One query over a cache in parts: the slot table, the part of each program, and how the parts become one answer."""
    width, count = len(slots), -(-len(slots) // block)
    canvas = Canvas(f"One sequence, one head: {length} tokens in parts of BLOCK = {block}", width + 4.2, 7.6)
    left = 3.9
    for y, words in ((0.75, "position"), (1.75, "slot_table[s]"), (3.15, "keys and values"), (5.05, "stored per part")):
        canvas.text(0, y, words, ha="left")
    for position, slot in enumerate(slots):
        seen, colour = position < length, (BLUE, ORANGE, GREEN)[position // block % 3]
        canvas.text(left + position + 0.5, 0.75, str(position))
        canvas.box(left + position, 1.4, 1, 0.7, colour if seen else PALE, str(slot) if seen else "?", hatched=not seen)
    for part in range(count):
        x, colour = left + part * block, (BLUE, ORANGE, GREEN)[part % 3]
        canvas.box(x + 0.1, 2.6, block - 0.2, 1.1, colour, f"program (s, head, {part})\nloads a tile [BLOCK, DIM]")
        canvas.arrow((x + block / 2, 3.75), (x + block / 2, 4.6))
        canvas.box(x + 0.6, 4.65, block - 1.2, 0.8, colour, f"$m_{part}$, $s_{part}$, $o_{part}$", size=11)
        canvas.arrow((x + block / 2, 5.5), (left + width / 2 + (part - 1) * 0.7, 6.3))
    canvas.box(left + width / 2 - 2.4, 6.35, 4.8, 0.9, INK, "combined: one $o$ [head_dim]", size=11)
    return canvas.figure
